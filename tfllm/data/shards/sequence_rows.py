"""One split of sequences with a mask of the learned tokens, laid out in rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfllm.data.shards.example_stream import ExampleStream
from tfllm.data.shards.splits import NO_ROW, RowBatch, Split


class SequenceRows(Split):
    """One split of examples, each of one or several sequences."""

    what: ClassVar[str]
    """noun for the examples, in the plural"""
    learned: ClassVar[str]
    """noun for the learned tokens, in the plural"""
    sides: ClassVar[int]
    """number of sequences per example, which is an axis of a batch"""

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        self._stream = ExampleStream(folder, split, manifest)
        super().__init__(folder, split, manifest, self._stream)
        self.num_learned = int(manifest["splits"][split]["num_learned"])
        """number of learned tokens, before truncation"""
        self.end_token_id = int(manifest["end_token_id"])
        if len(self._stream) != self.sides * self.num_documents:
            raise ValueError(
                f"the index of {split} does not have {self.sides} entries for each of its "
                f"{self.num_documents} {self.what}"
            )

    @property
    def _size(self) -> str:
        return f"{self.num_documents} {self.what}"

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per learned token."""
        return self.num_bytes / max(self.num_learned, 1)

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Rows as inputs, labels and weights, each [rows, sides, sequence_length].

        Raises:
            ValueError: `separate_documents` is False, or a file was changed.
        """
        if not separate_documents:
            raise ValueError(
                "examples never attend to each other, so separate_documents must be true; received "
                "False (to concatenate them, prepare them as text)"
            )
        shape = (len(rows), self.sides, sequence_length)
        token_ids = np.full(shape, self.end_token_id, np.int32)
        labels = np.full(shape, self.end_token_id, np.int32)
        segment_ids, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for i, row in enumerate(rows):
            sides = () if row == NO_ROW else self.placed(row, sequence_length)
            for side, placed in enumerate(sides):
                end = 0
                for number, (sequence, first) in enumerate(placed, 1):
                    tokens, learned = self._stream.sequence(
                        sequence, first, first + sequence_length + 1
                    )
                    begin, end = end, end + len(tokens) - 1
                    token_ids[i, side, begin:end] = tokens[:-1]
                    labels[i, side, begin:end] = tokens[1:]
                    segment_ids[i, side, begin:end] = number
                    weights[i, side, begin:end] = learned[1:]
        return RowBatch({"token_ids": token_ids, "segment_ids": segment_ids}, labels, weights)

    @abstractmethod
    def placed(self, row: int, sequence_length: int) -> Iterable[Iterable[tuple[int, int]]]:
        """The content of a row: for each side its sequences, each as its number and the index of
        its first token that is kept."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""
        return self._stream.read(start, stop)

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Number of times that each token is learned, int64 [vocab_size]."""
        return self._stream.token_counts(vocab_size)

    def describe(self) -> str:
        """Describe the content of the split in one line."""
        return (
            f"{self.split:<10} {self.num_tokens:>13,} tokens  {self.num_documents:>9,} "
            f"{self.what:<11}{self.num_learned:>9,} {self.learned}  "
            f"{self.bytes_per_token:.2f} bytes each"
        )
