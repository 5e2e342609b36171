"""Arguments that several commands have, and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tfllm.cli.settings import SECTIONS
from tfllm.config import ConfigError, field_types
from tfllm.config.data import check_encoding

RunCommand = Callable[[argparse.Namespace], int | None]
"""does what a command is for; returns its exit status, None for 0"""
AddCommand = Callable[[str, str, RunCommand], argparse.ArgumentParser]
"""takes a command's name, its help and what it does; gives the parser of its arguments"""


def add_model(parser: argparse.ArgumentParser, *, adapter: bool = False) -> None:
    """The model that a command is about, and, where it may have one, its adapter."""
    parser.add_argument(
        "model", help="a model folder, the run that trained it, a .gguf file, or hf://ORG/NAME"
    )
    if adapter:
        parser.add_argument(
            "--adapter", metavar="DIR", help="an adapter for the model, in PEFT's layout"
        )


def add_task(parser: argparse.ArgumentParser) -> None:
    """What a model is for, where it does not say so itself."""
    parser.add_argument(
        "--task",
        help="of a model that does not say it, such as a T5: translation or summarization",
    )


def add_prompt_name(parser: argparse.ArgumentParser) -> None:
    """Which of its prompts a model of sentence vectors puts before texts."""
    parser.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="of a model of sentence vectors: which of its prompts, such as query, is put before "
        "each text",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """What the columns of records are called in their files; `columns_of` reads it."""
    parser.add_argument(
        "--columns",
        metavar="COLUMN=NAME",
        nargs="+",
        action="extend",
        help="of a task or of examples: what columns are called in the files, such as text=review "
        "label=stars, or prompt=task response=reply",
    )


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """In which encoding files are; `encoding_of` reads it."""
    parser.add_argument("--encoding", help="of the files; default: utf-8")


def encoding_of(options: argparse.Namespace) -> str:
    """The encoding that was given.

    Raises:
        ConfigError: Python does not know it.
    """
    encoding = getattr(options, "encoding", "utf-8")
    check_encoding(encoding)
    return encoding


def columns_of(options: argparse.Namespace) -> dict[str, str]:
    """Column to its name in the files.

    Raises:
        ConfigError: one is not given as COLUMN=NAME, or is a setting.
    """
    found = {}
    for word in getattr(options, "columns", None) or ():
        column, equals, name = word.partition("=")
        if not equals or not column or not name:
            raise ConfigError(f"a column is given as COLUMN=NAME; received {word!r}")
        if any(column in field_types(section) for section in SECTIONS.values()):
            raise ConfigError(
                f"{word!r} is a setting and stands among the columns; put it behind --set"
            )
        found[column] = name
    return found
