"""An input file as a stream of bytes, with errors that name it."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

CHUNK_BYTES = 1 << 18

# What a file that is not UTF-8 text begins with, and what to do about it.
_KNOWN_STARTS = (
    (b"\x1f\x8b", "it looks like gzip: give it a name that ends in .gz"),
    (b"PK\x03\x04", "it looks like a zip archive (also .docx, .xlsx, .epub): take the text out"),
    (b"%PDF", "it looks like a PDF: convert it to text first"),
    (b"\x28\xb5\x2f\xfd", "it looks like zstd: decompress it first"),
    (b"PAR1", "it looks like Parquet: give it a name that ends in .parquet"),
    (b"\xff\xfe", "it looks like UTF-16: convert it to UTF-8 first"),
    (b"\xfe\xff", "it looks like UTF-16: convert it to UTF-8 first"),
)


@contextmanager
def opened(path: Path, on_read: Callable[[int], object] | None = None) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where its name ends in .gz.

    Args:
        path: the file.
        on_read: called with the number of bytes each time some are read from the disk.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a damaged gzip file.
    """
    try:
        with open(path, "rb", buffering=0) as disk:
            stream: BinaryIO = io.BufferedReader(_Counted(disk, on_read), CHUNK_BYTES)
            if path.name.lower().endswith(".gz"):
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not a whole gzip file ({error}): it was cut short, was damaged, or is "
            "not gzip at all; fetch it again, or take .gz off its name if it is plain text"
        ) from error
    except OSError as error:
        raise unreadable(error, path) from error


def suffix_of(name: str) -> str:
    """The ending of a file's name in small letters, that before .gz for a packed file."""
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def unreadable(error: OSError, path: Any) -> OSError:
    """`error` with what to do about it."""
    reason = error.strerror or str(error) or type(error).__name__
    return type(error)(
        f"cannot read {path}: {reason}; make it readable, or leave it out of the inputs"
    )


def not_text(path: Path, start: bytes, offset: int, what: str) -> ValueError:
    """The error for a file that is not UTF-8.

    Args:
        path: the file.
        start: its first bytes.
        offset: where it is not.
        what: stands there.
    """
    advice = next(
        (advice for magic, advice in _KNOWN_STARTS if start.startswith(magic)),
        "convert it to UTF-8, or leave it out of the inputs",
    )
    return ValueError(
        f"{path} is not UTF-8 text: {what} stands at byte {offset} of its content; {advice}"
    )


class _Counted(io.RawIOBase):
    """An open file that tells how many bytes were read."""

    def __init__(self, file: io.FileIO, on_read: Callable[[int], object] | None) -> None:
        self._file = file
        self._on_read = on_read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        if self._on_read is not None:
            self._on_read(count)
        return count
