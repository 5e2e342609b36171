"""What every split is, whatever was prepared: a number of rows, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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


class Split(Protocol):
    """The split "train" or "validation" of prepared data."""

    split: str
    """its name"""
    num_tokens: int
    """all of them"""
    num_documents: int
    """documents, examples or pairs"""
    num_bytes: int
    """UTF-8 bytes of the text that is learned"""
    readers: list[ShardReader]
    """of all its files"""

    @property
    def error(self) -> Exception | None:
        """What a read met; of an error in a dataset's thread TensorFlow passes on only the text."""

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of a token that is learned, on average."""

    def num_rows(self, sequence_length: int) -> int:
        """How many rows of `sequence_length` labels an epoch has."""

    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a `sequence_length` that `num_rows` gives 0 for."""

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Some rows, by number; `NO_ROW` is one of weight 0.

        Raises:
            ValueError: a shard was changed.
            OSError: a shard cannot be read.
        """

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token is learned: int64 [vocab_size]."""

    def describe(self) -> str:
        """What it holds, in a line."""

    def describe_rows(self, sequence_length: int) -> str | None:
        """What becomes of it in rows of `sequence_length`, in a line; None: nothing to tell."""
