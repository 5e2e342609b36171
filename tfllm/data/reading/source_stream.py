"""An input file as a stream of bytes, with errors that name it."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

CHUNK_BYTES = 1 << 18

# First bytes of files that are not UTF-8 text, and what to do with such files.
_KNOWN_STARTS = (
    (b"\x1f\x8b", "it looks like gzip: give it a name that ends in .gz"),
    (b"PK\x03\x04", "it looks like a zip archive (also .docx, .xlsx, .epub): extract the text"),
    (b"%PDF", "it looks like a PDF: convert it to text first"),
    (b"\x28\xb5\x2f\xfd", "it looks like zstd: decompress it first"),
    (b"PAR1", "it looks like Parquet: give it a name that ends in .parquet"),
    (b"\xff\xfe", "it looks like UTF-16: set encoding to utf-16, or convert it to UTF-8"),
    (b"\xfe\xff", "it looks like UTF-16: set encoding to utf-16, or convert it to UTF-8"),
)


@contextmanager
def opened(
    path: Path, on_read: Callable[[int], object] | None = None, encoding: str = "utf-8"
) -> Iterator[BinaryIO]:
    """Context with the bytes of a file, decompressed if its name ends in .gz, in UTF-8.

    Args:
        path: the file.
        on_read: called with the number of bytes after each read from the disk.
        encoding: encoding of the file; UTF-8 is passed on without a check.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a damaged gzip file, or is not in the encoding.
    """
    try:
        with open(path, "rb", buffering=0) as disk:
            stream: BinaryIO = io.BufferedReader(_Counted(disk, on_read), CHUNK_BYTES)
            if path.name.lower().endswith(".gz"):
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
            if codecs.lookup(encoding).name != "utf-8":
                stream = io.BufferedReader(_Recoded(stream, path, encoding), CHUNK_BYTES)
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not a complete gzip file ({error}): it was truncated or damaged, or is not "
            "gzip at all; download it again, or remove .gz from its name if it is plain text"
        ) from error
    except OSError as error:
        raise unreadable(error, path) from error


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case; for a compressed file, the one before .gz."""
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]


def unreadable(error: OSError, path: Any) -> OSError:
    """An error like `error` that names the file and says what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return type(error)(
        f"cannot read {path}: {reason}; make it readable, or leave it out of the inputs"
    )


def not_text(path: Path, start: bytes, offset: int, what: str) -> ValueError:
    """The error for a file that is not UTF-8.

    Args:
        path: the file.
        start: first bytes of the file.
        offset: position of the first invalid byte.
        what: description of the invalid byte.
    """
    advice = next(
        (advice for magic, advice in _KNOWN_STARTS if start.startswith(magic)),
        "set encoding to that of the file (such as latin-1 or cp1251), convert it to UTF-8, or "
        "leave it out of the inputs (skip_bad_records skips it)",
    )
    return ValueError(
        f"{path} is not UTF-8 text: {what} is at byte {offset} of its content; {advice}"
    )


class _Recoded(io.RawIOBase):
    """The text of a stream in another encoding, as UTF-8."""

    def __init__(self, stream: BinaryIO, path: Path, encoding: str) -> None:
        self._stream = stream
        self._path = path
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._offset = 0
        self._made = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._made and not self._ended:
            chunk = self._stream.read(CHUNK_BYTES // 4)
            self._ended = not chunk
            pending = len(self._decoder.getstate()[0])
            try:
                text = self._decoder.decode(chunk, final=self._ended)
                self._made = text.encode()
            except UnicodeError as error:  # also for a lone surrogate
                at = getattr(error, "start", 0) if isinstance(error, UnicodeDecodeError) else 0
                raise ValueError(
                    f"{self._path} is not {self._encoding} text ({error}), at byte "
                    f"{self._offset - pending + at} of its content; set encoding to that of the "
                    "file, or leave it out of the inputs (skip_bad_records skips it)"
                ) from None
            self._offset += len(chunk)
        count = min(len(buffer), len(self._made))
        buffer[:count] = self._made[:count]
        self._made = self._made[count:]
        return count


class _Counted(io.RawIOBase):
    """An open file that reports the number of bytes read."""

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
