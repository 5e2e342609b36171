"""One split's tokens on disk, read in rows without holding them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfllm.data.shards import Shard, little_endian


class TokenRows:
    """The tokens of one split: its shards in a row, mapped into memory.

    Row `i` of length `L` is `tokens[i * L : i * L + L + 1]`: `L` inputs and, shifted by one, `L`
    labels. A row's last token is the next row's first, so that each token but the split's first is
    a label once.
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
        self._folder = folder
        self._shards = list(shards)
        self._dtype = little_endian(dtype)
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in shards)])
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_tokens

    def __repr__(self) -> str:
        return f"TokenRows({self.split!r}, {self.num_tokens} tokens, {self._folder})"

    def num_rows(self, sequence_length: int, *, with_tail: bool = False) -> int:
        """How many rows of `sequence_length` labels there are.

        Args:
            sequence_length: tokens in a row.
            with_tail: count the last row although it is shorter.
        """
        labels = max(self.num_tokens - 1, 0)
        return -(-labels // sequence_length) if with_tail else labels // sequence_length

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens `start` to `stop` (fewer at the end), int32 [stop - start]."""
        stop = min(stop, self.num_tokens)
        parts = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            offset = int(self._starts[shard])
            end = min(stop, int(self._starts[shard + 1]))
            parts.append(self._map(shard)[start - offset : end - offset])
            start, shard = end, shard + 1
        if not parts:
            return np.zeros(0, np.int32)
        return np.concatenate(parts).astype(np.int32)

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

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path = self._folder / self._shards[shard].file
            # A plain array on the map: slicing a np.memmap costs several times as much.
            self._maps[shard] = np.asarray(np.memmap(path, dtype=self._dtype, mode="r"))
        return self._maps[shard]
