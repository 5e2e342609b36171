"""One split of a task's examples, each of which consists of named arrays of integers."""

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
"""makes a batch of examples, given the sequence length: `RecordTask.batch`"""


class TaskRows(Split):
    """One split of a task's examples: row `i` is example `i`.

    On disk, an example is stored as its arrays one after the other, in the order of the manifest's
    `features`, as int32 in two's complement; the index contains the length of each. The task
    determines how examples are batched (`collate`).

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> line = '{"text": "%s plot no. %d", "label": "%s"}'
        >>> pairs = [("good", "positive"), ("bad", "negative")]
        >>> lines = [line % (word, i, label) for word, label in pairs for i in range(10)]
        >>> _ = Path("reviews.jsonl").write_text("\\n".join(lines))
        >>> data = tfllm.prepare(
        ...     "reviews.jsonl", "data", task="classification", show_progress=False
        ... )
        >>> list(data.train.example(0))
        ['label', 'token_ids', 'token_type_ids']
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        entry = manifest["splits"][split]
        self._numbers, self._index = (
            ShardStream(folder, [Shard(**shard) for shard in entry[name]], "uint32")
            for name in ("shards", "index")
        )
        super().__init__(folder, split, manifest, self._numbers, self._index)
        self.features = [str(name) for name in manifest["task"]["features"]]
        """names of the arrays of an example"""
        self.num_examples = int(entry["num_examples"])
        self.collate: Collate | None = None
        self._sequence_length = int(manifest["task"]["sequence_length"])
        if len(self._index) != self.num_examples * len(self.features):
            raise ValueError(f"the index of {split} does not have one entry per array")

    @property
    def _size(self) -> str:
        return f"{self.num_examples} examples"

    @property
    def longest(self) -> int:
        """Length of the longest array of any example; 0 without examples."""
        return int(self._lengths.max(initial=0))

    def num_rows(self, sequence_length: int) -> int:
        """Number of examples.

        Raises:
            ValueError: the examples were prepared with another sequence length.
        """
        if sequence_length != self._sequence_length:
            raise ValueError(
                f"{self._folder} has examples of at most {self._sequence_length} tokens; received "
                f"sequence_length {sequence_length}; prepare the records again with that length"
            )
        return self.num_examples

    def why_no_rows(self, sequence_length: int) -> str:
        """The error message for a split without examples."""
        return (
            f"the {self.split} split has no examples; give validation records, or a "
            "validation_fraction above 0 and at least two records that differ"
        )

    def example(self, number: int) -> dict[str, np.ndarray]:
        """The example with this index, as one-dimensional int32 arrays by name.

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
        """The examples with the given indices, batched by the task.

        Raises:
            ValueError: a file was changed.
        """
        assert self.collate is not None, "whoever trains sets it"
        # `NO_ROW` is replaced by the first row with weight 0.
        batch = self.collate(
            [self.example(0 if row == NO_ROW else row) for row in rows], sequence_length
        )
        missing = np.array([row == NO_ROW for row in rows], bool)
        if missing.any():
            batch.weights[missing] = 0.0
        return batch

    def read(self, start: int, stop: int) -> np.ndarray:
        """The integers `start` to `stop` in the order of the files (fewer at the end), int32."""
        return self._numbers.read(start, stop).astype(np.int32)

    def token_counts(self, vocab_size: int) -> NoReturn:
        """Not supported, since the examples of a task have no perplexity.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self._folder} contains the examples of a task, which have no perplexity; evaluate "
            "the model on records: tfllm evaluate MODEL --task NAME --data FILE"
        )

    def describe(self) -> str:
        """Describe the content of the split in one line."""
        return (
            f"{self.split:<10} {self.num_documents:>9,} records  {self.num_examples:>9,} examples  "
            f"{self.num_tokens:>13,} tokens"
        )

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        """Lengths of the arrays, int64 [examples, features], in memory."""
        index = self._index.read(0, len(self._index)).astype(np.int64)
        lengths = index.reshape(-1, len(self.features))
        if int(lengths.sum()) != len(self._numbers):
            raise ValueError(
                f"{self._folder}, {self.split}: the index does not match the arrays; copy the "
                "folder again, or prepare the records again"
            )
        return lengths

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self._lengths.sum(1))])
