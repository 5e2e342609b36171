"""One split of examples, whole ones packed side by side into rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.example_packing import Packing, pack_examples
from tfllm.data.shards.example_stream import ExampleStream
from tfllm.data.shards.splits import NO_ROW, RowBatch

_log = logging.getLogger("tfllm")


class ExampleRows:
    """The examples of a split.

    With the examples `[5 6 7 8]`, of which 7 and 8 are learned, and `[5 9 8]`, of which 9 and 8
    are, a row of length 7 is

        token_ids    5 6 7 5 9 0 0
        segment_ids  1 1 1 2 2 0 0
        labels       6 7 8 9 8 0 0
        weights      0 1 1 1 1 0 0

    where 0 is the end token, which fills what is left, in a segment of its own. A token's label is
    the next token of its own example, and its weight says whether that is learned. An example that
    is longer than a row is cut at its end; if nothing learned is left then, it is left out. Which
    examples share a row (`pack_examples`) depends on the sequence length alone.

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
        if len(self._stream) != self._stream.num_documents:
            raise ValueError(f"the index of {split} does not have one entry an example")
        self.readers = self._stream.readers
        self.num_documents = self._stream.num_documents
        """examples"""
        self.num_tokens = self._stream.num_tokens
        self.num_learned = self._stream.num_learned
        """tokens that are learned, before any is cut off"""
        self.num_bytes = self._stream.num_bytes
        """UTF-8 bytes of what is learned"""
        self.end_token_id = int(manifest["end_token_id"])
        self._folder = folder
        self._packings: dict[int, Packing] = {}

    def __repr__(self) -> str:
        return f"ExampleRows({self.split!r}, {self.num_documents} examples, {self._folder})"

    @property
    def error(self) -> Exception | None:
        """What a read met; of an error in a dataset's thread TensorFlow passes on only the text."""
        return self._stream.error

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of what is learned over its tokens."""
        return self.num_bytes / max(self.num_learned, 1)

    def packing(self, sequence_length: int) -> Packing:
        """Which examples stand in which row, made once for each length."""
        found = self._packings.get(sequence_length)
        if found is None:
            index = self._stream.index
            found = pack_examples(index[:, 0], index[:, 1], sequence_length)
            self._packings[sequence_length] = found
            if found.num_left_out and found.num_rows:
                _log.warning("%s: %s", self._folder, self.describe_rows(sequence_length))
        return found

    def num_rows(self, sequence_length: int) -> int:
        """How many rows of `sequence_length` places the examples fill."""
        return self.packing(sequence_length).num_rows

    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a `sequence_length` that leaves no row."""
        if not self.num_documents:
            return (
                f"the {self.split} split has no examples; prepare them with a validation_fraction "
                "above 0 and at least two that differ, or with a validation set of their own"
            )
        first = self._stream.index[:, 1]
        return (
            f"none of the {self.num_documents:,} examples of {self.split} has anything to learn "
            f"within a row of sequence_length {sequence_length}: what is learned begins behind "
            f"{first.min():,} tokens at the earliest; set sequence_length to at least "
            f"{first.min():,} ({np.median(first):,.0f} keeps a part of half of them, "
            f"{self._stream.index[:, 0].max() - 1:,} keeps all of all)"
        )

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Rows as inputs, labels and weights, each [rows, sequence_length] (see above).

        Raises:
            ValueError: `separate_documents` is False, or a file was changed.
        """
        require_separate(separate_documents)
        packing = self.packing(sequence_length)
        shape = (len(rows), sequence_length)
        token_ids = np.full(shape, self.end_token_id, np.int32)
        labels = np.full(shape, self.end_token_id, np.int32)
        segment_ids, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for i, row in enumerate(rows):
            end = 0
            for number, example in enumerate(packing.examples(row) if row != NO_ROW else (), 1):
                tokens, learned = self._stream.sequence(example, 0, sequence_length + 1)
                begin, end = end, end + len(tokens) - 1
                token_ids[i, begin:end] = tokens[:-1]
                labels[i, begin:end] = tokens[1:]
                segment_ids[i, begin:end] = number
                weights[i, begin:end] = learned[1:]
        return RowBatch({"token_ids": token_ids, "segment_ids": segment_ids}, labels, weights)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` in the order of the files (fewer at the end), int32."""
        return self._stream.read(start, stop)

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token is learned: int64 [vocab_size]."""
        return self._stream.token_counts(vocab_size)

    def describe(self) -> str:
        """What the split holds, in a line."""
        return (
            f"{self.split:<10} {self.num_tokens:>13,} tokens  {self.num_documents:>9,} examples   "
            f"{self.num_learned:>9,} tokens to learn  {self.bytes_per_token:.2f} bytes each"
        )

    def describe_rows(self, sequence_length: int) -> str | None:
        """How full the rows are, and what is cut off and left out."""
        if not self.num_documents:
            return None
        packing = self.packing(sequence_length)
        share = packing.num_labels / max(packing.num_rows * sequence_length, 1)
        told = f"{self.split}: {packing.num_rows:,} rows of {sequence_length:,}, {share:.1%} filled"
        if packing.num_cut:
            told += f"; examples longer than that and cut at their end: {packing.num_cut:,}"
        if packing.num_left_out:
            told += (
                f"; left out, as nothing to learn would be left of them: {packing.num_left_out:,} "
                "(a longer sequence_length keeps them)"
            )
        return told


def require_separate(separate_documents: bool) -> None:
    """Refuse plain concatenation, which is for text.

    Raises:
        ValueError: it is asked for.
    """
    if not separate_documents:
        raise ValueError(
            "examples never see one another, so separate_documents must be true; received False "
            "(to pack their words end to end, prepare them as text)"
        )
