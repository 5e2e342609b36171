"""One split's tokens on disk, read in rows without holding them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.packing import pack_rows
from tfllm.data.shards.shard_files import Shard
from tfllm.data.shards.shard_stream import ShardStream
from tfllm.data.shards.splits import NO_ROW, RowBatch


class TokenRows:
    """The tokens of one split of text: its shards in a row.

    Row `i` of length `L` is `tokens[i * L : i * L + L + 1]`: `L` inputs and, shifted by one, `L`
    labels. A row's last token is the next row's first, so that each token but the split's first is
    a label once. The tokens behind the last full row of "train" are left out; those of "validation"
    make a shorter row.

    A file that is changed, cut short or deleted while it is read is an error that names it.
    Threads may read at the same time, and so may forked processes and pickled copies.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        shards: Sequence[Shard],
        *,
        dtype: str,
        end_token_id: int,
        num_documents: int,
        num_bytes: int,
    ) -> None:
        self.split = split
        """"train" or "validation\""""
        self.end_token_id = end_token_id
        self.num_documents = num_documents
        self.num_bytes = num_bytes
        """UTF-8 bytes of the documents' text"""
        self.num_tokens = sum(shard.num_tokens for shard in shards)
        """the end token of each document included"""
        self._stream = ShardStream(folder, shards, dtype)
        self.readers = self._stream.readers
        """of the shards, in order"""
        self._folder = folder

    @classmethod
    def of_manifest(cls, folder: Path, split: str, manifest: dict[str, Any]) -> TokenRows:
        """The split that a manifest describes.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: the manifest is damaged.
        """
        entry = manifest["splits"][split]
        rows = cls(
            folder,
            split,
            [Shard(**shard) for shard in entry["shards"]],
            dtype=manifest["dtype"],
            end_token_id=int(manifest["end_token_id"]),
            num_documents=int(entry["num_documents"]),
            num_bytes=int(entry["num_bytes"]),
        )
        if rows.num_tokens != entry["num_tokens"]:
            raise ValueError(f"the shards of {split} do not add up to {entry['num_tokens']} tokens")
        return rows

    @property
    def error(self) -> Exception | None:
        """What a read met; of an error in a dataset's thread TensorFlow passes on only the text."""
        return self._stream.error

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the text over its tokens."""
        return self.num_bytes / max(self.num_tokens, 1)

    def __len__(self) -> int:
        return self.num_tokens

    def __repr__(self) -> str:
        return f"TokenRows({self.split!r}, {self.num_tokens} tokens, {self._folder})"

    def num_rows(self, sequence_length: int) -> int:
        """How many rows of `sequence_length` labels there are, a shorter last one included."""
        labels = max(self.num_tokens - 1, 0)
        with_tail = self.split == "validation"
        return -(-labels // sequence_length) if with_tail else labels // sequence_length

    def why_no_rows(self, sequence_length: int) -> str:
        """The error text for a `sequence_length` that leaves no row."""
        if self.split == "validation":
            return (
                f"the validation split has {self.num_tokens} tokens and so no row; prepare the "
                "text with a validation_fraction above 0 and at least two documents"
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
        """How often each token stands in the split: int64 [vocab_size]."""
        counts = np.zeros(vocab_size, np.int64)
        for chunk in self.chunks():
            counts += np.bincount(chunk, minlength=vocab_size)
        return counts

    def describe(self) -> str:
        """What the split holds, in a line."""
        return (
            f"{self.split:<10} {self.num_tokens:>13,} tokens  {self.num_documents:>9,} documents  "
            f"{self.num_bytes / 1e6:>9,.1f} MB  {self.bytes_per_token:.2f} bytes a token"
        )

    def describe_rows(self, sequence_length: int) -> str | None:
        """Nothing: text fills its rows."""
        return None
