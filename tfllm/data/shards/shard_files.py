"""Shards: files that contain a flat stream of little-endian integers and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True)
class Shard:
    """A shard file, as the manifest lists it."""

    file: str
    """name of the file in the folder"""
    num_tokens: int
    """number of integers in the file"""
    sha256: str
    """SHA-256 of the file, in hexadecimal"""


def token_dtype(vocab_size: int) -> str:
    """The narrowest dtype of shards that holds all ids below `vocab_size`.

    Raises:
        ValueError: `vocab_size` is below 1 or above 2^32.
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(f"vocab_size must lie in [1, 4294967296]; received {vocab_size}")
    return "uint16" if vocab_size <= 2**16 else "uint32"


def little_endian(dtype: str) -> np.dtype:
    """The NumPy dtype of a shard on disk.

    Raises:
        ValueError: `dtype` is not one that shards have.
    """
    if dtype not in ("uint8", "uint16", "uint32"):
        raise ValueError(f"the shards' dtype must be uint8, uint16 or uint32; received {dtype!r}")
    return np.dtype(dtype).newbyteorder("<")


class ShardWriter:
    """Writes one stream as shards: `<name>-00000.bin`, `<name>-00001.bin`, ...

    Every shard but the last has exactly `shard_tokens` integers; a document may span shards.
    """

    def __init__(self, folder: Path, name: str, dtype: str, shard_tokens: int) -> None:
        self.num_documents = 0
        self.num_tokens = 0
        self.num_bytes = 0
        self.shards: list[Shard] = []
        self._folder = folder
        self._stream = name
        self._dtype = little_endian(dtype)
        self._shard_tokens = shard_tokens
        self._file: BinaryIO | None = None
        self._in_shard = 0

    def write(self, tokens: np.ndarray) -> None:
        """Append integers to the stream."""
        tokens = tokens.astype(self._dtype, copy=False)
        self.num_tokens += len(tokens)
        while len(tokens):
            if self._file is None:
                self._open()
            assert self._file is not None
            part = tokens[: self._shard_tokens - self._in_shard]
            data = part.tobytes()
            self._file.write(data)
            self._sha256.update(data)
            self._in_shard += len(part)
            tokens = tokens[len(part) :]
            if self._in_shard == self._shard_tokens:
                self.close()

    def close(self) -> None:
        """Finish the shard that is being written."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.shards.append(Shard(self._name, self._in_shard, self._sha256.hexdigest()))
        self._file = None

    def abandon(self) -> None:
        """Close without finishing, after an error."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, which is why we are here
                self._file.close()
            self._file = None

    def _open(self) -> None:
        self._name = f"{self._stream}-{len(self.shards):05d}.bin"
        self._file = open(self._folder / self._name, "wb")  # noqa: SIM115
        self._sha256 = hashlib.sha256()
        self._in_shard = 0


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
