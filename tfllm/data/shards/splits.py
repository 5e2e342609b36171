"""What every split is, whatever was prepared: a number of rows, and batches of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfllm.data.shards.shard_reader import ShardReader

NO_ROW = -1
"""In place of a row's number: a row of weight 0."""


class RowBatch(NamedTuple):
    """Some rows, as a training step takes them."""

    inputs: dict[str, np.ndarray]
    """int32 "token_ids" and "segment_ids", and what else the kind of data has; each [rows, ...]"""
    labels: np.ndarray
    """int32, of the shape of the token ids: the token that follows each"""
    weights: np.ndarray
    """float32, of the same shape: 1 where the label is learned, else 0"""


class Stream(Protocol):
    """What is read of a split's files."""

    readers: list[ShardReader]

    @property
    def error(self) -> Exception | None:
        """What a read met."""


class Split(ABC):
    """The split "train" or "validation" of prepared data.

    Files that are changed while they are read are errors that name them. Threads may read at the
    same time, and so may forked processes and pickled copies.

    Args:
        folder: where the files lie.
        split: "train" or "validation".
        manifest: what the folder's says.
        streams: of its files.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: the manifest is damaged.
    """

    def __init__(
        self, folder: Path, split: str, manifest: dict[str, Any], *streams: Stream
    ) -> None:
        entry = manifest["splits"][split]
        self.split = split
        """its name"""
        self.num_tokens = int(entry["num_tokens"])
        """all of them"""
        self.num_documents = int(entry["num_documents"])
        """documents, examples, pairs or records"""
        self.num_bytes = int(entry["num_bytes"])
        """UTF-8 bytes of the text that is learned"""
        self._folder = folder
        self._streams = streams
        self.readers = [reader for stream in streams for reader in stream.readers]
        """of all its files, in order"""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.split!r}, {self._size}, {self._folder})"

    @property
    @abstractmethod
    def _size(self) -> str:
        """How much it holds, in two words."""

    @property
    def error(self) -> Exception | None:
        """What a read met; of an error in a dataset's thread TensorFlow passes on only the text."""
        return next((s.error for s in self._streams if s.error is not None), None)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of a token that is learned, on average."""
        return self.num_bytes / max(self.num_tokens, 1)

    @abstractmethod
    def num_rows(self, sequence_length: int) -> int:
        """How many rows of `sequence_length` labels an epoch has."""

    @abstractmethod
    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a `sequence_length` that `num_rows` gives 0 for."""

    @abstractmethod
    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Some rows, by number; `NO_ROW` is one of weight 0.

        Raises:
            ValueError: a shard was changed.
            OSError: a shard cannot be read.
        """

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""

    @abstractmethod
    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token is learned: int64 [vocab_size]."""

    @abstractmethod
    def describe(self) -> str:
        """What it holds, in a line."""

    def describe_rows(self, sequence_length: int) -> str | None:
        """What becomes of it in rows of `sequence_length`, in a line; None: nothing to tell."""
        return None
