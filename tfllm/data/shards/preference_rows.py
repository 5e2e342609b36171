"""One split of preferences: a row is a pair of replies to one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.example_rows import require_separate
from tfllm.data.shards.example_stream import ExampleStream
from tfllm.data.shards.splits import NO_ROW, RowBatch


class PreferenceRows:
    """The pairs of a split: row `i` is pair `i`, whatever the sequence length.

    A row has the chosen reply at 0 and the rejected one at 1, each behind the prompt and filled up
    at its right with end tokens of segment 0 and weight 0. Where they do not fit, the prompt loses
    its beginning, for both replies alike, until a quarter of the row is left to it; then the
    replies lose their ends.

    Files that are changed while they are read are errors that name them. Threads may read at the
    same time, and so may forked processes and pickled copies.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        """The split that a manifest describes.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: the manifest is damaged.
        """
        self.split = split
        """"train" or "validation\""""
        self._stream = ExampleStream(folder, split, manifest)
        if len(self._stream) != 2 * self._stream.num_documents:
            raise ValueError(f"the index of {split} does not have two entries a pair")
        self.readers = self._stream.readers
        self.num_documents = self._stream.num_documents
        """pairs"""
        self.num_tokens = self._stream.num_tokens
        self.num_learned = self._stream.num_learned
        """tokens of the replies"""
        self.num_bytes = self._stream.num_bytes
        """UTF-8 bytes of the replies"""
        self.end_token_id = int(manifest["end_token_id"])
        self.reference: np.ndarray | None = None
        """float32 [pairs, 2]: see `PreferenceData.with_reference`"""
        self._folder = folder

    def __repr__(self) -> str:
        return f"PreferenceRows({self.split!r}, {self.num_documents} pairs, {self._folder})"

    @property
    def error(self) -> Exception | None:
        """What a read met; of an error in a dataset's thread TensorFlow passes on only the text."""
        return self._stream.error

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the replies over their tokens."""
        return self.num_bytes / max(self.num_learned, 1)

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
        """Pairs: all are [rows, 2, sequence_length], but for the input "reference", [rows, 2].

        Raises:
            ValueError: `separate_documents` is False, or a file was changed.
        """
        require_separate(separate_documents)
        shape = (len(rows), 2, sequence_length)
        token_ids = np.full(shape, self.end_token_id, np.int32)
        labels = np.full(shape, self.end_token_id, np.int32)
        segment_ids, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        reference = np.zeros((len(rows), 2), np.float32)
        for i, row in enumerate(rows):
            if row == NO_ROW:
                continue
            if self.reference is not None:
                reference[i] = self.reference[row]
            pair = self._stream.index[2 * row : 2 * row + 2].astype(np.int64)
            for side, begin in enumerate(_begins(pair[None], sequence_length)[0].tolist()):
                tokens, learned = self._stream.sequence(
                    2 * row + side, begin, begin + sequence_length + 1
                )
                end = len(tokens) - 1
                token_ids[i, side, :end] = tokens[:-1]
                labels[i, side, :end] = tokens[1:]
                segment_ids[i, side, :end] = 1
                weights[i, side, :end] = learned[1:]
        inputs = {"token_ids": token_ids, "segment_ids": segment_ids, "reference": reference}
        return RowBatch(inputs, labels, weights)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""
        return self._stream.read(start, stop)

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token stands in the replies: int64 [vocab_size]."""
        return self._stream.token_counts(vocab_size)

    def describe(self) -> str:
        """What the split holds, in a line."""
        return (
            f"{self.split:<10} {self.num_tokens:>13,} tokens  {self.num_documents:>9,} pairs      "
            f"{self.num_learned:>9,} tokens in replies  {self.bytes_per_token:.2f} bytes each"
        )

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
