"""Sequences of tokens on disk, each with marks on what is learned, read one by one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.shard_files import Shard
from tfllm.data.shards.shard_stream import ShardStream

STREAMS = ("shards", "learned", "index")
"""of a split in the manifest: token ids; uint8, 1 where the token is learned; uint32, of each
sequence the number of its tokens and the first of them that is learned"""


class ExampleStream:
    """The sequences of a split.

    Args:
        folder: where the files lie.
        split: "train" or "validation".
        manifest: what the folder's says.

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
        """of all files"""
        self.num_tokens = int(entry["num_tokens"])
        for name, stream in (("shards", self._tokens), ("learned", self._learned)):
            if len(stream) != self.num_tokens:
                raise ValueError(f"the {name} of {split} do not add up to {self.num_tokens} tokens")
        if len(self._index) % 2:
            raise ValueError(f"the index of {split} has an odd length")
        self._where = f"{folder}, {split}"

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self._index) // 2

    @property
    def error(self) -> Exception | None:
        """What a read met."""
        return next((s.error for s in self._streams if s.error is not None), None)

    @functools.cached_property
    def index(self) -> np.ndarray:
        """uint32 [sequences, 2]: tokens of each, and the first that is learned; held in memory.

        Raises:
            ValueError: a file was changed.
        """
        index = self._index.read(0, len(self._index)).reshape(-1, 2)
        total = int(index[:, 0].sum(dtype=np.int64))
        if total != self.num_tokens or (index[:, 1] >= index[:, 0]).any() or (index < 1).any():
            raise ValueError(
                f"{self._where}: the index does not fit the tokens (it counts {total}, there are "
                f"{self.num_tokens}); copy the folder again, or prepare the examples again"
            )
        return index

    def sequence(self, number: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens `start` to `stop` of a sequence, and which are learned: in the files' types.

        Raises:
            ValueError: a file was changed.
            OSError: a file cannot be read.
        """
        begin = int(self._starts[number])
        end = min(begin + stop, int(self._starts[number + 1]))
        return self._tokens.read(begin + start, end), self._learned.read(begin + start, end)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens in the order of the files, wherever sequences end: int32."""
        return self._tokens.read(start, stop).astype(np.int32)

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token is learned: int64 [vocab_size]."""
        counts = np.zeros(vocab_size, np.int64)
        for tokens, learned in zip(self._tokens.chunks(), self._learned.chunks(), strict=True):
            counts += np.bincount(tokens[learned == 1], minlength=vocab_size)
        return counts

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.index[:, 0], dtype=np.int64)])
