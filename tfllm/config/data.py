"""How training data are prepared."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfllm.config.rules import check, require


@dataclass(frozen=True)
class PrepareConfig:
    """How the records of a task become the rows that a model is trained on."""

    vocab_size: int = 8192
    """size of the tokenizer to train, special tokens included"""
    split: Literal["tfllm", "qwen2"] = "tfllm"
    """how the tokenizer to train cuts text before it merges: tfllm, or as in Qwen 2, which also
    brings text to Unicode's form NFC; a model of the family qwen2 is read alike by every version of
    transformers with that alone"""
    tokenizer: str | None = None
    """whose tokenizer to use instead of training one: a model folder, a GGUF file or a
    tokenizer.json; conversations and preferences need that of the model that is to learn from
    them"""
    sequence_length: int | None = None
    """the most tokens of an example, for tasks whose records become examples of their own; default:
    that of the training, or the task's"""
    validation_fraction: float | None = None
    """share of the records kept out of training, chosen by a hash; default: 0.02 of documents,
    conversations and preferences, else 0.1. Documents are kept out whole, unless one is too large
    for that: it is split at paragraphs"""
    validation: tuple[str, ...] = ()
    """files, folders or globs that are the validation set; nothing else is kept out then"""
    text_field: str = "text"
    """the key of a JSON line, or the column of a table, that holds the text of a document"""
    columns: tuple[str, ...] = ()
    """what the columns of the records are called in the files, each as COLUMN=NAME, such as
    prompt=task response=reply or label=stars; in Python a dictionary may be given"""
    ignore_keys: tuple[str, ...] = ()
    """keys of examples to pass over although they have a meaning, such as label or weight"""
    encoding: str = "utf-8"
    """of text files, JSON and CSV, as Python names it, such as latin-1, cp1251 or utf-16"""
    skip_bad_records: bool = False
    """pass over JSON lines that are broken or lack something, and over text files in another
    encoding, and count them"""
    fill_in_the_middle: float = 0.0
    """share of the training text that is written as prefix, suffix, middle, so that a model learns
    to fill in what stands between (Bavarian et al., 2022); for code 0.5 is usual"""
    fill_suffix_first: float = 0.5
    """of these, the share that begins with the suffix: then the middle goes on where the prefix
    ends, which a small model learns sooner"""
    fill_chars: int = 2048
    """characters of such a piece at most: all of it should fit into a row"""
    shard_tokens: int = 50_000_000
    """tokens in one shard file"""
    num_processes: int = 0
    """processes that tokenize; 0: one a core, at most one for each 4 MB"""
    seed: int = 0
    """decides which documents are kept for validation"""

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
        # The trainer takes memory for all of them at once, and ends the process where it gets none.
        require(self.vocab_size <= 2**20, "vocab_size must be at most 1048576", self.vocab_size)
        check(self, "must lie in [0, 1)", "validation_fraction")
        check_encoding(self.encoding)
        for name in ("fill_in_the_middle", "fill_suffix_first"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name} must lie in [0, 1]", share)
        check(self, "must be at least 1", "shard_tokens", "fill_chars")
        check(self, "must be at least 0", "num_processes")


def _source(given: Any) -> tuple[str, ...]:
    """Files as strings; a file of lines for each column as one: "source=a.en,target=a.de"."""
    if isinstance(given, Mapping):
        return (",".join(f"{name}={path}" for name, path in given.items()),)
    if isinstance(given, str | os.PathLike):
        given = [given]
    return tuple(map(str, given))


def check_encoding(name: str) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        ConfigError: it does not.
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
    except (LookupError, ValueError):  # such as base64, which is none of text
        return False
