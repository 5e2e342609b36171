"""Reads a shard, and notices when the file is changed under it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.data.shards.shard_files import Shard

_BLOCK = 1 << 22
_COPY_AGAIN = "copy the folder again, or prepare the text again"


class ShardReader:
    """One file of numbers.

    Read with `pread` and not through a map of memory: if a mapped file is cut short, the system
    kills the process. A file whose size, time or name changes is held against its checksum again
    before anything that was read is used. Threads may read at the same time, and so may processes
    that were forked; a pickled reader opens the file anew.

    Args:
        folder: where the file lies.
        shard: what the manifest says of it.
        dtype: of the ids in it.
    """

    def __init__(self, folder: Path, shard: Shard, dtype: np.dtype) -> None:
        self.path = folder / shard.file
        self.num_bytes = shard.num_tokens * dtype.itemsize
        self._sha256 = shard.sha256
        self._dtype = dtype
        self._file: _OpenFile | None = None
        self._known: tuple[Any, ...] | None = None
        """what marked the file when it was known to be as it was written"""

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is held."""
        return self._file is not None

    def look(self) -> None:
        """See that the file is there and has the right size; from now on it must stay as it is.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it has another size.
        """
        self._open()

    def read(self, start: int, stop: int) -> np.ndarray:
        """The numbers `start` to `stop`, all of which there must be, in the shard's dtype.

        Raises:
            FileNotFoundError: the file was deleted.
            ValueError: its content is not what was written.
            OSError: it cannot be read.
        """
        size, offset = (stop - start) * self._dtype.itemsize, start * self._dtype.itemsize
        for doubtful in (False, True):
            if doubtful:
                self.verify()
            file = self._file
            if file is None:
                self._file = file = self._open()
            try:
                data = file.read(size, offset)
                if file.marks() == self._known and len(data) == size:
                    return np.frombuffer(data, self._dtype)
            except OSError:  # such as a handle that a file server does not know any more
                if doubtful:
                    raise
        raise ValueError(f"{self.path} is being changed while it is read; {_COPY_AGAIN}")

    def verify(self) -> None:
        """Hold every byte against the checksum; from now on the file must stay as it is.

        Raises:
            FileNotFoundError: the file is not there.
            ValueError: its content is not what was written.
            OSError: it cannot be read.
        """
        self.close()
        digest, offset = hashlib.sha256(), 0
        file = self._open()
        marks = file.marks()
        while block := file.read(_BLOCK, offset):
            digest.update(block)
            offset += len(block)
        received = digest.hexdigest()
        if received != self._sha256 or file.marks() != marks:
            raise ValueError(
                f"{self.path} was changed after it was written: the SHA-256 of its "
                f"{self.num_bytes} bytes must be {self._sha256}; received {received} of {offset} "
                f"bytes; {_COPY_AGAIN}"
            )
        self._known = marks

    def close(self) -> None:
        """Let the descriptor go; reading opens the file again."""
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the descriptor."""
        return {**self.__dict__, "_file": None}

    def _open(self) -> _OpenFile:
        try:
            file = _OpenFile(self.path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path} is listed in manifest.json but is not there; {_COPY_AGAIN}"
            ) from error
        if self._known is None:
            marks = file.marks()
            if marks[0] != self.num_bytes:
                raise ValueError(
                    f"{self.path} must have {self.num_bytes} bytes and has {marks[0]}: it was cut "
                    f"short or changed; {_COPY_AGAIN}"
                )
            self._known = marks
        return file


class _OpenFile:
    """A descriptor that is closed when nobody reads from it any more, and not before.

    One that was closed by hand while another thread reads could be that of another file by then.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end."""
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size:  # the system reads 2 GiB at a time at most
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = os.fspath(self._path)
            raise
        return data

    def marks(self) -> tuple[Any, ...]:
        """What changes with the file: its size and time, and whether a name leads to it."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_nlink > 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)
