"""Arguments that several commands share, and a flag for every setting."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tfllm.cli.help import Parser
from tfllm.cli.settings import FLAG, OLD_NAMES, SECTIONS
from tfllm.config import field_docs, field_types

RunCommand = Callable[[argparse.Namespace], int | None]
"""runs a command and returns its exit status; None means 0"""
AddCommand = Callable[[str, str, RunCommand, str], Parser]
"""adds a command, given its name, help, function and an example; returns its parser"""

GENERATION = ("--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--stop")
"""flags of the generation settings that the short help shows"""


_EXAMPLES = {
    "prepare": "vocab_size=16384 seed=1",
    "training": "learning_rate=3e-4 or model.num_layers=8",
    "generation": "temperature=0.8 top_p=0.9",
}
"""examples of KEY=VALUE for the help, by the first section of a command's settings"""


def add_model(parser: argparse.ArgumentParser, *, adapter: bool = False) -> None:
    """Add the argument MODEL and, if wanted, `--adapter`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model folder, a run of `tfllm train`, a .gguf file, or hf://ORG/NAME",
    )
    if adapter:
        parser.add_argument(
            "--adapter", metavar="DIR", help="a LoRA adapter for the model, in PEFT's layout"
        )


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add `--task`, for models whose folder does not name their task."""
    parser.add_argument(
        "--task",
        metavar="TASK",
        help="the model's task, if its folder does not name one: for a T5, translation or "
        "summarization",
    )


def add_prompt_name(parser: argparse.ArgumentParser) -> None:
    """Add `--prompt-name`, the prompt that an embedding model puts before texts."""
    parser.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="for an embedding model: which of its prompts, such as query, to put before each text",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add `--columns`, which `columns_of` reads."""
    parser.add_argument(
        "--columns",
        metavar="COLUMN=NAME",
        nargs="+",
        action="extend",
        help="names of the columns in your files, such as text=review label=stars, or prompt=task "
        "response=reply",
    )


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Add `--encoding`, which `encoding_of` reads."""
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help="encoding of the files, such as latin-1 or utf-16; default: utf-8",
    )


def add_settings(parser: argparse.ArgumentParser, *sections: str) -> None:
    """Add `--config`, `--set` and a flag for each setting of some sections.

    The help of a flag is the documentation of the setting's field.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="a TOML or JSON file of settings, in sections"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        dest="assignments",
        help=f"settings by name, such as {_EXAMPLES[sections[0]]}",
    )
    for section in sections:
        # A model's own defaults are not shown: the size's values stand in their place.
        of_model = section == "model"
        title = "architecture of a new model (overrides its size)" if of_model else "settings"
        names = [name for name in field_types(SECTIONS[section]) if name != "columns"]
        add_fields(parser.add_argument_group(title), section, names, defaults=not of_model)
        if section == "prepare":
            add_columns(parser)


def add_fields(group: Any, section: str, names: Sequence[str], *, defaults: bool = True) -> None:
    """Add a flag for each of the named settings of a section."""
    for field in dataclasses.fields(SECTIONS[section]):
        if field.name not in names:
            continue
        text = field_docs(SECTIONS[section])[field.name]
        if defaults and field.default is not None and field.default != ():
            text += f" (default: {_shown(field.default)})"
        kind = field_types(SECTIONS[section])[field.name]
        options: dict[str, Any] = {"help": text.replace("%", "%%")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _value_name(field.name, kind)
        if field.name == "ignore_keys":
            options |= {"nargs": "+", "action": "extend"}
        elif field.name == "stop":
            options["action"] = "append"
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, dest=f"{FLAG}{section}.{field.name}", **options)
    for old, new in OLD_NAMES.get(section, {}).items():
        if new in names:
            flag = "--" + old.replace("_", "-")
            group.add_argument(flag, dest=f"{FLAG}{section}.{old}", help=argparse.SUPPRESS)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()  # as it is written in KEY=VALUE
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


_VALUE_NAMES = {
    **{"stop": "TEXT", "ignore_keys": "KEY", "validation": "PATH", "tokenizer": "PATH"},
    **{"encoding": "NAME", "text_field": "NAME", "rope_scaling": "JSON"},
}


def _value_name(name: str, kind: Any) -> str:
    """The placeholder for the value of a flag in its help."""
    if name in _VALUE_NAMES:
        return _VALUE_NAMES[name]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(typing.get_args(kind))}}}"
    if kind == tuple[int, ...]:
        return "N,N,..."
    return {int: "N", float: "X", bool: "{true,false}"}.get(kind, "NAME")
