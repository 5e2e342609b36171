"""Numbers on disk, shard after shard, any part of which is read without holding the rest."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfllm.data.shards.shard_files import Shard, little_endian
from tfllm.data.shards.shard_reader import ShardReader

_OPEN_FILES = 128
"""of a stream at a time; a process may often have no more than 1,024"""


class ShardStream:
    """Shards in a row.

    A file that is changed, cut short or deleted while it is read is an error that names it.
    Threads may read at the same time, and so may forked processes and pickled copies.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str) -> None:
        self._dtype = little_endian(dtype)
        self.readers = [ShardReader(folder, shard, self._dtype) for shard in shards]
        """of the shards, in order"""
        self.error: Exception | None = None
        """what a read met"""
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in shards)]).tolist()
        self._opened: deque[ShardReader] = deque()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers `start` to `stop` (fewer at the end), in the shards' type.

        Raises:
            FileNotFoundError: a shard was deleted.
            ValueError: a shard was changed.
            OSError: a shard cannot be read.
        """
        stop = min(stop, len(self))
        parts = []
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            offset, end = self._starts[shard], min(stop, self._starts[shard + 1])
            parts.append(self._read(self.readers[shard], start - offset, end - offset))
            start, shard = end, shard + 1
        if not parts:
            return np.zeros(0, self._dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def chunks(self, num_items: int = 1 << 20) -> Iterator[np.ndarray]:
        """All numbers in order, in pieces of `num_items`."""
        for start in range(0, len(self), num_items):
            yield self.read(start, start + num_items)

    def _read(self, reader: ShardReader, start: int, stop: int) -> np.ndarray:
        if not reader.is_open:
            self._opened.append(reader)
            if len(self._opened) > _OPEN_FILES:
                self._opened.popleft().close()
        try:
            return reader.read(start, stop)
        except Exception as error:
            self.error = error
            raise
