"""One split of preferences: a row is a pair of replies to one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.sequence_rows import SequenceRows
from tfllm.data.shards.splits import NO_ROW, RowBatch


class PreferenceRows(SequenceRows):
    """The pairs of a split: row `i` is pair `i`, whatever the sequence length.

    A row has the chosen reply at 0 and the rejected one at 1, each behind the prompt and filled up
    at its right with end tokens of segment 0 and weight 0. Where they do not fit, the prompt loses
    its beginning, for both replies alike, until a quarter of the row is left to it; then the
    replies lose their ends.
    """

    what = "pairs"
    learned = "tokens in replies"
    sides = 2

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        super().__init__(folder, split, manifest)
        self.reference: np.ndarray | None = None
        """float32 [pairs, 2]: see `PreferenceData.with_reference`"""

    def num_rows(self, sequence_length: int) -> int:
        """How many pairs there are."""
        return self.num_documents

    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a split without pairs."""
        return (
            f"the {self.split} split has no preferences; prepare them with a validation_fraction "
            "above 0 and at least two that differ, or with a validation set of their own"
        )

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Pairs: all are [rows, 2, sequence_length], but for the input "reference", [rows, 2]."""
        batch = super().batch(rows, sequence_length, separate_documents=separate_documents)
        batch.inputs["reference"] = np.zeros((len(rows), 2), np.float32)
        for i, row in enumerate(rows):
            if row != NO_ROW and self.reference is not None:
                batch.inputs["reference"][i] = self.reference[row]
        return batch

    def placed(self, row: int, sequence_length: int) -> Iterable[Iterable[tuple[int, int]]]:
        """Either reply behind what is left of the prompt."""
        pair = self._stream.index[2 * row : 2 * row + 2].astype(np.int64)
        begins = _begins(pair[None], sequence_length)[0].tolist()
        return [[(2 * row + side, begin)] for side, begin in enumerate(begins)]

    def describe_rows(self, sequence_length: int) -> str | None:
        """How many prompts and replies are cut."""
        if not self.num_documents:
            return None
        pairs = self._stream.index.astype(np.int64).reshape(-1, 2, 2)
        begins, lengths = _begins(pairs, sequence_length), pairs[..., 0]
        prompts = int((begins > 0).any(1).sum())
        replies = int((lengths - begins > sequence_length + 1).any(1).sum())
        told = f"{self.split}: {self.num_documents:,} pairs in rows of 2 x {sequence_length:,}"
        if prompts:
            told += f"; prompts cut at their beginning: {prompts:,}"
        if replies:
            told += f"; pairs with replies cut at their end: {replies:,}"
        return told


def _begins(pairs: np.ndarray, sequence_length: int) -> np.ndarray:
    """int64 [pairs, 2]: how many tokens either side of each pair loses at its beginning.

    Args:
        pairs: int64 [pairs, 2, 2]: tokens, and the first that is learned, of either side.
        sequence_length: places in a row.
    """
    lengths, prompts = pairs[..., 0], pairs[..., 1]
    longest = (lengths - prompts).max(1, keepdims=True)
    room = np.maximum(sequence_length + 1 - longest, max((sequence_length + 1) // 4, 1))
    return np.maximum(prompts - room, 0)
