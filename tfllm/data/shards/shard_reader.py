"""Read a shard, and detect changes of the file."""

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
    """Reader of one shard file.

    It reads with `pread` instead of mapping the file into memory, since the system kills a process
    whose mapped file is truncated. If the size, modification time or name of the file changes, its
    checksum is verified again before any data read are used. Several threads and forked processes
    may read at the same time; a pickled reader reopens the file.

    Args:
        folder: folder of the file.
        shard: entry of the shard in the manifest.
        dtype: dtype of the integers in the file.
    """

    def __init__(self, folder: Path, shard: Shard, dtype: np.dtype) -> None:
        self.path = folder / shard.file
        self.num_bytes = shard.num_tokens * dtype.itemsize
        self._sha256 = shard.sha256
        self._dtype = dtype
        self._file: _OpenFile | None = None
        self._known: tuple[Any, ...] | None = None
        """the file's marks when it was last known to be unchanged"""

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._file is not None

    def check_file(self) -> None:
        """Check that the file exists and has the right size; from now on it must not change.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file has another size.
        """
        self._open()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the integers `start` to `stop`, which must exist, in the dtype of the shard.

        Raises:
            FileNotFoundError: the file was deleted.
            ValueError: the content of the file has changed.
            OSError: the file cannot be read.
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
            except OSError:  # such as a stale handle of a file server
                if doubtful:
                    raise
        raise ValueError(f"{self.path} is being changed while it is read; {_COPY_AGAIN}")

    def verify(self) -> None:
        """Verify the checksum of the file; from now on it must not change.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the content of the file has changed.
            OSError: the file cannot be read.
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
        """Close the file; reading opens it again."""
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open file."""
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
    """A file descriptor that is closed once no thread uses it any more.

    If it were closed explicitly while another thread reads, its number could be reused for another
    file.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file."""
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size:  # the system reads at most 2 GiB at a time
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = os.fspath(self._path)
            raise
        return data

    def marks(self) -> tuple[Any, ...]:
        """Values that change with the file: size, modification time, and whether it has a name."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_nlink > 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)
