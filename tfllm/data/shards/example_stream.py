"""Sequences of tokens on disk, with a mask of the learned tokens, read one by one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.shard_files import Shard
from tfllm.data.shards.shard_stream import ShardStream

STREAMS = ("shards", "learned", "index")
"""streams of a split in the manifest: token ids; uint8, 1 where the token is learned; uint32, for
each sequence its number of tokens and the index of the first learned one"""


class ExampleStream:
    """The sequences of a split.

    Args:
        folder: folder of the files.
        split: "train" or "validation".
        manifest: content of the folder's manifest.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: the manifest is damaged.
    """

    def __init__(self, folder: Path, split: str, manifest: dict[str, Any]) -> None:
        entry = manifest["splits"][split]
        dtypes = dict(zip(STREAMS, (manifest["dtype"], "uint8", "uint32"), strict=True))
        streams = {
            name: ShardStream(folder, [Shard(**shard) for shard in entry[name]], dtypes[name])
            for name in STREAMS
        }
        self._tokens, self._learned, self._index = (streams[name] for name in STREAMS)
        self._streams = list(streams.values())
        self.readers = [reader for stream in self._streams for reader in stream.readers]
        """readers of all files"""
        self.num_tokens = int(entry["num_tokens"])
        for name, stream in (("shards", self._tokens), ("learned", self._learned)):
            if len(stream) != self.num_tokens:
                raise ValueError(f"the {name} of {split} do not add up to {self.num_tokens} tokens")
        if len(self._index) % 2:
            raise ValueError(f"the index of {split} has an odd length")
        self._where = f"{folder}, {split}"

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._index) // 2

    @property
    def error(self) -> Exception | None:
        """The error of a failed read, or None."""
        return next((s.error for s in self._streams if s.error is not None), None)

    @functools.cached_property
    def index(self) -> np.ndarray:
        """Number of tokens and index of the first learned one, uint32 [sequences, 2], in memory.

        Raises:
            ValueError: a file was changed.
        """
        index = self._index.read(0, len(self._index)).reshape(-1, 2)
        total = int(index[:, 0].sum(dtype=np.int64))
        if total != self.num_tokens or (index[:, 1] >= index[:, 0]).any() or (index < 1).any():
            raise ValueError(
                f"{self._where}: the index does not match the tokens (it counts {total}, but there "
                f"are {self.num_tokens}); copy the folder again, or prepare the examples again"
            )
        return index

    def sequence(self, number: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `start` to `stop` of a sequence, and their mask, in the dtypes of the files.

        Raises:
            ValueError: a file was changed.
            OSError: a file cannot be read.
        """
        begin = int(self._starts[number])
        end = min(begin + stop, int(self._starts[number + 1]))
        return self._tokens.read(begin + start, end), self._learned.read(begin + start, end)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` in the order of the files, across sequences, int32."""
        return self._tokens.read(start, stop).astype(np.int32)

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Number of times that each token is learned, int64 [vocab_size]."""
        counts = np.zeros(vocab_size, np.int64)
        for tokens, learned in zip(self._tokens.chunks(), self._learned.chunks(), strict=True):
            counts += np.bincount(tokens[learned == 1], minlength=vocab_size)
        return counts

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.index[:, 0], dtype=np.int64)])
