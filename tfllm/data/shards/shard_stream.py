"""A stream of integers in several shards, of which any part can be read."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfllm.data.shards.shard_files import Shard, little_endian
from tfllm.data.shards.shard_reader import ShardReader

_OPEN_FILES = 128
"""maximum number of open files per stream; a process often may have only 1,024 in all"""


class ShardStream:
    """Several shards as one stream.

    A file that is changed, truncated or deleted while it is in use causes an error that names it.
    Several threads, forked processes and pickled copies may read at the same time.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str) -> None:
        self._dtype = little_endian(dtype)
        self.readers = [ShardReader(folder, shard, self._dtype) for shard in shards]
        """readers of the shards, in order"""
        self.error: Exception | None = None
        """the error of a failed read"""
        self._starts = np.cumsum([0, *(shard.num_tokens for shard in shards)]).tolist()
        self._opened: deque[ShardReader] = deque()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the integers `start` to `stop` (fewer at the end), in the dtype of the shards.

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
        """All integers in order, in pieces of `num_items`."""
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
