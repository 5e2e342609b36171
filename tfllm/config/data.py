"""Settings for preparing training data."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfllm.config.rules import check, require


@dataclass(frozen=True)
class PrepareConfig:
    """Settings for turning the records of a task into the rows that a model is trained on.

    Examples:
        >>> config = PrepareConfig(vocab_size=4096, columns={"prompt": "task"})
        >>> config.columns
        ('prompt=task',)
        >>> config.seed
        0
    """

    vocab_size: int = 8192
    """vocabulary size of the tokenizer to train, including special tokens"""
    split: Literal["tfllm", "qwen2"] = "tfllm"
    """how the new tokenizer splits text before it merges bytes: tfllm, or qwen2 as in Qwen 2, which
    also normalizes text to Unicode NFC; with a model of the family qwen2, every version of
    transformers tokenizes only the latter in the same way"""
    tokenizer: str | None = None
    """use this tokenizer instead of training one: a model folder, a GGUF file or a tokenizer.json.
    Conversations and preferences need the tokenizer of the model to fine-tune"""
    sequence_length: int | None = None
    """maximum tokens per example, for tasks that turn each record into an example; default: that of
    the training, or of the task"""
    validation_fraction: float | None = None
    """fraction of the records held out for validation, chosen by a hash; default: 0.02 for
    documents, conversations and preferences, else 0.1. Documents are held out whole, unless one is
    too large for that: it is split at paragraphs"""
    validation: tuple[str, ...] = ()
    """files, folders or globs of a validation set; then nothing is held out from the rest"""
    text_field: str = "text"
    """key in JSON Lines, or column of a table, that holds the text of a document"""
    columns: tuple[str, ...] = ()
    """names of the columns in the files, each as COLUMN=NAME, such as prompt=task response=reply or
    label=stars; in Python also a dictionary"""
    ignore_keys: tuple[str, ...] = ()
    """keys of conversations to ignore although they have a meaning, such as label or weight"""
    encoding: str = "utf-8"
    """encoding of text, JSON and CSV files, by its Python name, such as latin-1, cp1251 or
    utf-16"""
    skip_bad_records: bool = False
    """skip, and count, malformed or incomplete JSON records and text files in another encoding"""
    fill_in_the_middle: float = 0.0
    """fraction of the training text that is rearranged as prefix, suffix, middle, so that a model
    learns infilling (Bavarian et al., 2022); 0.5 is usual for code"""
    fill_suffix_first: float = 0.5
    """fraction of the rearranged text that begins with the suffix: the middle then directly follows
    the prefix, which small models learn sooner"""
    fill_chars: int = 2048
    """maximum characters per rearranged piece, which should fit into sequence_length"""
    shard_tokens: int = 50_000_000
    """tokens per shard file"""
    num_processes: int = 0
    """number of processes that tokenize; 0: one per core, at most one per 4 MB"""
    seed: int = 0
    """random seed that decides which documents are held out"""

    @property
    def column_names(self) -> dict[str, str]:
        """`columns` as a dictionary."""
        return dict(column.split("=", 1) for column in self.columns)  # type: ignore[misc]

    def __post_init__(self) -> None:
        if isinstance(self.columns, Mapping):
            columns = tuple(f"{name}={key}" for name, key in self.columns.items())
            object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "validation", _source(self.validation))
        for column in self.columns:
            name, _, key = column.partition("=")
            require(bool(name and key), "a column is given as COLUMN=NAME", column)
        if (text := self.column_names.get("text")) is not None:
            require(
                self.text_field in ("text", text),
                f"text_field must be the column that columns names for text ({text!r}), or not set",
                self.text_field,
            )
            object.__setattr__(self, "text_field", text)
        check(self, "must be at least 1", "vocab_size", "sequence_length")
        # The trainer allocates memory for the whole vocabulary at once, and aborts the process if
        # it cannot.
        require(self.vocab_size <= 2**20, "vocab_size must be at most 1048576", self.vocab_size)
        check(self, "must lie in [0, 1)", "validation_fraction")
        check_encoding(self.encoding)
        for name in ("fill_in_the_middle", "fill_suffix_first"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name} must lie in [0, 1]", share)
        check(self, "must be at least 1", "shard_tokens", "fill_chars")
        check(self, "must be at least 0", "num_processes")


def _source(given: Any) -> tuple[str, ...]:
    """Paths as strings; a mapping of columns to files as one string: "source=a.en,target=a.de"."""
    if isinstance(given, Mapping):
        return (",".join(f"{name}={path}" for name, path in given.items()),)
    if isinstance(given, str | os.PathLike):
        given = [given]
    return tuple(map(str, given))


def check_encoding(name: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        ConfigError: Python does not know it, or it is not a text encoding.
    """
    require(
        _is_text_encoding(name),
        "encoding must be one that Python knows, such as utf-8, latin-1, cp1251 or utf-16",
        name,
    )


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return bool(codecs.lookup(name).name)
    except (LookupError, ValueError):  # such as base64, which does not encode text
        return False
