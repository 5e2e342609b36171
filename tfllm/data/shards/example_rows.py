"""One split of examples, which are packed into rows without being divided."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.example_packing import Packing, pack_examples
from tfllm.data.shards.sequence_rows import SequenceRows
from tfllm.data.shards.splits import RowBatch

_log = logging.getLogger("tfllm")


class ExampleRows(SequenceRows):
    """One split of examples, such as prompts and responses, packed into rows.

    With the examples `[5 6 7 8]`, of which 7 and 8 are learned, and `[5 9 8]`, of which 9 and 8
    are learned, a row of length 7 is

        token_ids    5 6 7 5 9 0 0
        segment_ids  1 1 1 2 2 0 0
        labels       6 7 8 9 8 0 0
        weights      0 1 1 1 1 0 0

    where 0 is the end token, which pads the row, in a segment of its own. A token's label is the
    next token of its example, and its weight tells whether that label is learned. An example that
    is longer than a row is truncated at its end, and left out if no learned token remains. Which
    examples share a row (`pack_examples`) depends only on the sequence length.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> tfllm.BytePairTokenizer.train(["2 + 2 = 4"], vocab_size=300).save("tokenizer")
        >>> line = '{"prompt": "2 + %d = ", "response": "%d"}'
        >>> _ = Path("sums.jsonl").write_text("\\n".join(line % (i, 2 + i) for i in range(20)))
        >>> config = tfllm.PrepareConfig(tokenizer="tokenizer")
        >>> data = tfllm.prepare("sums.jsonl", "data", config, show_progress=False)
        >>> data.train
        ExampleRows('train', 19 examples, data)
        >>> data.train.batch([0], 32).labels.shape
        (1, 32)
    """

    what = "examples"
    learned = "tokens to learn"
    sides = 1

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        super().__init__(folder, split, manifest)
        self._packings: dict[int, Packing] = {}

    def packing(self, sequence_length: int) -> Packing:
        """The assignment of examples to rows, computed once per sequence length."""
        found = self._packings.get(sequence_length)
        if found is None:
            index = self._stream.index
            found = pack_examples(index[:, 0], index[:, 1], sequence_length)
            self._packings[sequence_length] = found
            if found.num_left_out and found.num_rows:
                _log.warning("%s: %s", self._folder, self.describe_rows(sequence_length))
        return found

    def num_rows(self, sequence_length: int) -> int:
        """Number of rows of `sequence_length` positions that the examples fill."""
        return self.packing(sequence_length).num_rows

    def why_no_rows(self, sequence_length: int) -> str:
        """The error message for a `sequence_length` that leaves no row."""
        if not self.num_documents:
            return (
                f"the {self.split} split has no examples; prepare them with a validation_fraction "
                "above 0 and at least two that differ, or with a validation set of their own"
            )
        first = self._stream.index[:, 1]
        return (
            f"none of the {self.num_documents:,} examples of {self.split} has anything to learn "
            f"within a row of sequence_length {sequence_length}: the first learned token comes "
            f"after at least {first.min():,} tokens; set sequence_length to at least "
            f"{first.min():,} ({np.median(first):,.0f} keeps a part of half of the examples, "
            f"{self._stream.index[:, 0].max() - 1:,} keeps all of them whole)"
        )

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Rows as inputs, labels and weights, each [rows, sequence_length] (see the class)."""
        batch = super().batch(rows, sequence_length, separate_documents=separate_documents)
        inputs = {name: array[:, 0] for name, array in batch.inputs.items()}
        return RowBatch(inputs, batch.labels[:, 0], batch.weights[:, 0])

    def placed(self, row: int, sequence_length: int) -> Iterable[Iterable[tuple[int, int]]]:
        """The examples that share a row, each from its first token."""
        return [[(number, 0) for number in self.packing(sequence_length).examples(row)]]

    def describe_rows(self, sequence_length: int) -> str | None:
        """A line on how full the rows are, and how many examples are truncated or left out."""
        if not self.num_documents:
            return None
        packing = self.packing(sequence_length)
        share = packing.num_labels / max(packing.num_rows * sequence_length, 1)
        text = f"{self.split}: {packing.num_rows:,} rows of {sequence_length:,}, {share:.1%} filled"
        if packing.num_truncated:
            text += f"; longer examples, truncated at their end: {packing.num_truncated:,}"
        if packing.num_left_out:
            text += (
                f"; left out, since nothing to learn would remain of them: "
                f"{packing.num_left_out:,} (a longer sequence_length keeps them)"
            )
        return text
