"""One split of a task's examples, each some arrays of numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tfllm.data.shards.shard_files import Shard
from tfllm.data.shards.shard_stream import ShardStream
from tfllm.data.shards.splits import NO_ROW, RowBatch, Split

Collate = Callable[[Sequence[dict[str, np.ndarray]], int], RowBatch]
"""examples and a sequence length to a batch: `RecordTask.batch`"""


class TaskRows(Split):
    """The examples of a split: row `i` is example `i`.

    On disk an example is its arrays one after the other, in the order of the manifest's `features`,
    as 32-bit numbers in two's complement; the index has the length of each. What a batch of them
    is, the task says (`collate`).
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        entry = manifest["splits"][split]
        self._numbers, self._index = (
            ShardStream(folder, [Shard(**shard) for shard in entry[name]], "uint32")
            for name in ("shards", "index")
        )
        super().__init__(folder, split, manifest, self._numbers, self._index)
        self.features = [str(name) for name in manifest["task"]["features"]]
        """names of an example's arrays"""
        self.num_examples = int(entry["num_examples"])
        self.collate: Collate | None = None
        self._sequence_length = int(manifest["task"]["sequence_length"])
        if len(self._index) != self.num_examples * len(self.features):
            raise ValueError(f"the index of {split} does not have one entry an array")

    @property
    def _size(self) -> str:
        return f"{self.num_examples} examples"

    @property
    def longest(self) -> int:
        """The numbers of the longest array of an example; 0 without examples."""
        return int(self._lengths.max(initial=0))

    def num_rows(self, sequence_length: int) -> int:
        """How many examples there are."""
        if sequence_length != self._sequence_length:
            raise ValueError(
                f"{self._folder} has examples of at most {self._sequence_length} tokens; received "
                f"sequence_length {sequence_length}; prepare the records again with that"
            )
        return self.num_examples

    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a split without examples."""
        return (
            f"the {self.split} split has no examples; give validation records, or a "
            "validation_fraction above 0 and at least two records that differ"
        )

    def example(self, number: int) -> dict[str, np.ndarray]:
        """An example: int32 arrays of one dimension.

        Raises:
            ValueError: a file was changed.
        """
        lengths = self._lengths[number]
        begin = int(self._starts[number])
        numbers = self._numbers.read(begin, begin + int(lengths.sum())).view(np.int32)
        parts = np.split(numbers, np.cumsum(lengths)[:-1])
        return dict(zip(self.features, parts, strict=True))

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Examples as the task batches them.

        Raises:
            ValueError: a file was changed.
        """
        assert self.collate is not None, "whoever trains sets it"
        # In place of no row stands the first one, with the weight 0.
        batch = self.collate(
            [self.example(0 if row == NO_ROW else row) for row in rows], sequence_length
        )
        missing = np.array([row == NO_ROW for row in rows], bool)
        if missing.any():
            batch.weights[missing] = 0.0
        return batch

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers `start` to `stop` in the order of the files (fewer at the end), int32."""
        return self._numbers.read(start, stop).astype(np.int32)

    def token_counts(self, vocab_size: int) -> NoReturn:
        """Examples of a task have no words that are learned.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self._folder} holds the examples of a task, which have no perplexity; measure the "
            "model on its records: tfllm evaluate MODEL --task NAME --data FILE"
        )

    def describe(self) -> str:
        """What the split holds, in a line."""
        return (
            f"{self.split:<10} {self.num_documents:>9,} records  {self.num_examples:>9,} examples  "
            f"{self.num_tokens:>13,} tokens"
        )

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        """int64 [examples, features]; held in memory."""
        index = self._index.read(0, len(self._index)).astype(np.int64)
        lengths = index.reshape(-1, len(self.features))
        if int(lengths.sum()) != len(self._numbers):
            raise ValueError(
                f"{self._folder}, {self.split}: the index does not fit the numbers; copy the "
                "folder again, or prepare the records again"
            )
        return lengths

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._lengths.sum(1))])
