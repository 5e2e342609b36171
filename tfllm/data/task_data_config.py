"""How records become the examples of a task. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfllm.config import ConfigError
from tfllm.config.data import check_encoding


@dataclass(frozen=True)
class TaskDataConfig:
    """Which records are trained on, and how they are read."""

    validation: Any = ()
    """files, folders or globs that are the validation set (or a file of lines for each column);
    nothing else is kept out then"""
    validation_fraction: float = 0.1
    """share of the records kept out of training, chosen by a hash"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """column of the task to the name that it has in the files"""
    encoding: str = "utf-8"
    """of all files, as Python calls it"""
    skip_bad_records: bool = False
    """pass over records that are broken or cannot be learned from, and count them"""
    vocab_size: int = 8192
    """of the tokenizer that a new model gets; at most"""
    seed: int = 0
    """decides which records are kept for validation"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(
                f"validation_fraction must lie in [0, 1); received {self.validation_fraction!r}"
            )
        check_encoding(self.encoding)
        if self.vocab_size < 1:
            raise ConfigError(f"vocab_size must be at least 1; received {self.vocab_size!r}")
