"""One split of preferences: a row is a pair of replies to one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.sequence_rows import SequenceRows
from tfllm.data.shards.splits import NO_ROW, RowBatch


class PreferenceRows(SequenceRows):
    """One split of pairs of replies: row `i` is pair `i`, for every sequence length.

    In a row, index 0 is the chosen reply and index 1 the rejected one, each after the prompt and
    padded on the right with end tokens of segment 0 and weight 0. If a pair does not fit, the
    prompt is truncated at its beginning, equally for both replies, to no less than a quarter of the
    row; then the replies are truncated at their ends.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> tfllm.BytePairTokenizer.train(["2 + 2 = 4"], vocab_size=300).save("tokenizer")
        >>> line = '{"prompt": "2 + %d = ", "chosen": "%d", "rejected": "?"}'
        >>> _ = Path("sums.jsonl").write_text("\\n".join(line % (i, 2 + i) for i in range(20)))
        >>> config = tfllm.PrepareConfig(tokenizer="tokenizer")
        >>> data = tfllm.prepare("sums.jsonl", "data", config, show_progress=False)
        >>> data.train
        PreferenceRows('train', 19 pairs, data)
        >>> data.train.batch([0], 32).labels.shape
        (1, 2, 32)
    """

    what = "pairs"
    learned = "tokens in replies"
    sides = 2

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        super().__init__(folder, split, manifest)
        self.reference: np.ndarray | None = None
        """float32 [pairs, 2]: see `PreferenceData.with_reference`"""

    def num_rows(self, sequence_length: int) -> int:
        """Number of pairs."""
        return self.num_documents

    def why_no_rows(self, sequence_length: int) -> str:
        """The error message for a split without pairs."""
        return (
            f"the {self.split} split has no preferences; prepare them with a validation_fraction "
            "above 0 and at least two that differ, or with a validation set of their own"
        )

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Pairs: arrays of [rows, 2, sequence_length], and the input "reference" [rows, 2]."""
        batch = super().batch(rows, sequence_length, separate_documents=separate_documents)
        batch.inputs["reference"] = np.zeros((len(rows), 2), np.float32)
        for i, row in enumerate(rows):
            if row != NO_ROW and self.reference is not None:
                batch.inputs["reference"][i] = self.reference[row]
        return batch

    def placed(self, row: int, sequence_length: int) -> Iterable[Iterable[tuple[int, int]]]:
        """Both replies, each after what is left of the prompt."""
        pair = self._stream.index[2 * row : 2 * row + 2].astype(np.int64)
        begins = _begins(pair[None], sequence_length)[0].tolist()
        return [[(2 * row + side, begin)] for side, begin in enumerate(begins)]

    def describe_rows(self, sequence_length: int) -> str | None:
        """A line on how many prompts and replies are truncated."""
        if not self.num_documents:
            return None
        pairs = self._stream.index.astype(np.int64).reshape(-1, 2, 2)
        begins, lengths = _begins(pairs, sequence_length), pairs[..., 0]
        prompts = int((begins > 0).any(1).sum())
        replies = int((lengths - begins > sequence_length + 1).any(1).sum())
        text = f"{self.split}: {self.num_documents:,} pairs in rows of 2 x {sequence_length:,}"
        if prompts:
            text += f"; prompts truncated at their beginning: {prompts:,}"
        if replies:
            text += f"; pairs with replies truncated at their end: {replies:,}"
        return text


def _begins(pairs: np.ndarray, sequence_length: int) -> np.ndarray:
    """Number of tokens cut off at the beginning of each reply's sequence: int64 [pairs, 2].

    Args:
        pairs: number of tokens and index of the first learned one, int64 [pairs, 2, 2].
        sequence_length: positions in a row.
    """
    lengths, prompts = pairs[..., 0], pairs[..., 1]
    longest = (lengths - prompts).max(1, keepdims=True)
    room = np.maximum(sequence_length + 1 - longest, max((sequence_length + 1) // 4, 1))
    return np.maximum(prompts - room, 0)
