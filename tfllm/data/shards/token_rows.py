"""One split of text, whose tokens are read from disk row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.packing import pack_rows
from tfllm.data.shards.shard_files import Shard
from tfllm.data.shards.shard_stream import ShardStream
from tfllm.data.shards.splits import NO_ROW, RowBatch, Split


class TokenRows(Split):
    """One split of text, as a stream of tokens.

    Row `i` of length `L` is `tokens[i * L : i * L + L + 1]`: `L` inputs and, shifted by one, `L`
    labels. A row's last token is the next row's first, so that each token except for the first of
    the split is a label once. The tokens after the last full row of "train" are left out; those of
    "validation" form a shorter row.

    Examples:
        >>> from pathlib import Path
        >>> import tfllm
        >>> _ = Path("text.txt").write_text("To be, or not to be: that is the question.\\n" * 50)
        >>> config = tfllm.PrepareConfig(vocab_size=280)
        >>> data = tfllm.prepare("text.txt", "data", config, show_progress=False)
        >>> data.train.row(0, 16).shape, data.train.num_rows(16) == (len(data.train) - 1) // 16
        ((17,), True)
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        shards = [Shard(**shard) for shard in manifest["splits"][split]["shards"]]
        self._stream = ShardStream(folder, shards, manifest["dtype"])
        super().__init__(folder, split, manifest, self._stream)
        self.end_token_id = int(manifest["end_token_id"])
        if len(self._stream) != self.num_tokens:
            raise ValueError(f"the shards of {split} do not add up to {self.num_tokens} tokens")

    def __len__(self) -> int:
        return self.num_tokens

    @property
    def _size(self) -> str:
        return f"{self.num_tokens} tokens"

    def num_rows(self, sequence_length: int) -> int:
        """Number of rows of `sequence_length` labels, including a shorter last one."""
        labels = max(self.num_tokens - 1, 0)
        with_tail = self.split == "validation"
        return -(-labels // sequence_length) if with_tail else labels // sequence_length

    def why_no_rows(self, sequence_length: int) -> str:
        """The error message for a `sequence_length` that leaves no row."""
        if self.split == "validation":
            return (
                f"the validation split has {self.num_tokens} tokens, and therefore no row; prepare "
                "the text with a validation_fraction above 0 and at least two documents"
            )
        return (
            f"the {self.split} split is shorter than one row: it has {self.num_tokens} tokens, and "
            f"a row of sequence_length {sequence_length} takes {sequence_length + 1}; prepare more "
            f"text, or set sequence_length to at most {max(self.num_tokens - 1, 1)}"
        )

    def batch(
        self, rows: Sequence[int], sequence_length: int, *, separate_documents: bool = True
    ) -> RowBatch:
        """Rows as inputs, labels and weights (see `pack_rows`), each [rows, sequence_length]."""
        nothing = np.zeros(0, np.int32)  # becomes a row of weight 0
        tokens = [nothing if i == NO_ROW else self.row(i, sequence_length) for i in rows]
        packed = pack_rows(
            tokens,
            sequence_length,
            end_token_id=self.end_token_id,
            separate_documents=separate_documents,
        )
        inputs = {"token_ids": packed.token_ids, "segment_ids": packed.segment_ids}
        return RowBatch(inputs, packed.labels, packed.weights)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` (fewer at the end), int32 [stop - start].

        Raises:
            FileNotFoundError: a shard was deleted.
            ValueError: a shard was changed.
            OSError: a shard cannot be read.
        """
        return self._stream.read(start, stop).astype(np.int32)

    def row(self, index: int, sequence_length: int) -> np.ndarray:
        """Row `index`: int32 [sequence_length + 1]; the split's last row may be shorter."""
        start = index * sequence_length
        return self.read(start, start + sequence_length + 1)

    def chunks(self, num_tokens: int = 1 << 20) -> Iterator[np.ndarray]:
        """All tokens in order, in pieces of `num_tokens`."""
        for start in range(0, self.num_tokens, num_tokens):
            yield self.read(start, start + num_tokens)

    def documents(self) -> Iterator[np.ndarray]:
        """The ids of each document in order, int32, without its end token."""
        held: list[np.ndarray] = []
        for chunk in self.chunks():
            start = 0
            for end in np.flatnonzero(chunk == self.end_token_id):
                yield np.concatenate([*held, chunk[start:end]])
                held, start = [], int(end) + 1
            held.append(chunk[start:])

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Number of occurrences of each token in the split, int64 [vocab_size]."""
        counts = np.zeros(vocab_size, np.int64)
        for chunk in self.chunks():
            counts += np.bincount(chunk, minlength=vocab_size)
        return counts

    def describe(self) -> str:
        """Describe the content of the split in one line."""
        return (
            f"{self.split:<10} {self.num_tokens:>13,} tokens  {self.num_documents:>9,} documents  "
            f"{self.num_bytes / 1e6:>9,.1f} MB  {self.bytes_per_token:.2f} bytes per token"
        )
