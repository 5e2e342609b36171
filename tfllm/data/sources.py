"""Where text comes from: which files, and which documents a file holds.

Formats, each plain or gzip-compressed (a name that ends in `.gz`):

- JSON lines (`.jsonl`, `.ndjson`, `.json`): one object a line, one document a line, taken from the
  object's text field as it stands. Blank lines are passed over.
- Text (everything else): a file is one document, unless it is longer than `max_document_chars`.
  Then it is cut into documents of at most that length: behind the last blank line in the second
  half of the length; if there is none, behind the last line end there; then behind the last space;
  and only then anywhere. The pieces, joined, are the file.

Text is UTF-8. A byte order mark is dropped, and the line ends `\\r\\n` and `\\r` of a text file
become `\\n`. A document of white space only is passed over.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

_CHUNK_BYTES = 1 << 18
_MAX_LINE_BYTES = 1 << 28

# What a file that is not UTF-8 text begins with, and what to do about it.
_KNOWN_STARTS = (
    (b"\x1f\x8b", "it looks like gzip: give it a name that ends in .gz"),
    (b"PK\x03\x04", "it looks like a zip archive (also .docx, .xlsx, .epub): take the text out"),
    (b"%PDF", "it looks like a PDF: convert it to text first"),
    (b"\x28\xb5\x2f\xfd", "it looks like zstd: decompress it first"),
    (b"PAR1", "it looks like Parquet: convert it to JSON lines first"),
    (b"\xff\xfe", "it looks like UTF-16: convert it to UTF-8 first"),
    (b"\xfe\xff", "it looks like UTF-16: convert it to UTF-8 first"),
)


@dataclass(frozen=True)
class SourceFile:
    """A file that holds documents."""

    path: Path
    """where it lies, as it was named or found"""
    num_bytes: int
    """its size on disk"""
    format: Literal["text", "json_lines"]
    """what its documents are read as"""


# ------------------------------------------------------------------ which files


def find_files(
    inputs: str | Path | Iterable[str | Path], *, exclude: Sequence[str | Path] = ()
) -> list[SourceFile]:
    """The files that `inputs` name, each once, sorted by path.

    Args:
        inputs: files (of any name), folders, and globs (`**` crosses folders). A folder stands for
            the files below it that end in .txt, .text, .md, .jsonl, .ndjson or .json, or in one of
            these and .gz; hidden files and folders are passed over.
        exclude: folders that are not searched, such as the one to be written.

    Raises:
        FileNotFoundError: an input is not there, or a folder or glob yields no file.
        ValueError: no input is given.
    """
    inputs = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not inputs:
        raise ValueError("at least one text file, folder or glob is needed; received none")
    excluded = {os.path.realpath(folder) for folder in exclude}
    found: dict[str, Path] = {}
    for entry in inputs:
        for path in _paths(os.path.expanduser(str(entry)), excluded):
            found.setdefault(os.path.realpath(path), Path(path))
    return sorted((_source_file(path) for path in found.values()), key=lambda f: f.path.as_posix())


def _paths(entry: str, excluded: set[str]) -> list[str]:
    if os.path.isdir(entry):
        return _files_below(entry, excluded)
    if os.path.lexists(entry):
        return [entry]
    if not glob.has_magic(entry):
        raise FileNotFoundError(
            f"{entry} does not exist; name a text file, a folder of them, or a quoted glob "
            "such as 'texts/**/*.txt'"
        )
    paths = []
    for path in glob.glob(entry, recursive=True):
        if not os.path.isdir(path):
            paths.append(path)
    if not paths:
        raise FileNotFoundError(
            f"no file matches the glob {entry!r}; ** crosses folders, as in 'texts/**/*.txt'"
        )
    return paths


def _files_below(folder: str, excluded: set[str]) -> list[str]:
    paths: list[str] = []
    others = 0
    visited = set(excluded)
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in visited:  # excluded, or a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if _suffix(name) in TEXT_SUFFIXES + JSON_SUFFIXES:
                paths.append(os.path.join(parent, name))
            else:
                others += 1
    if not paths:
        raise FileNotFoundError(
            f"the folder {folder} holds no file that ends in "
            f"{', '.join(TEXT_SUFFIXES + JSON_SUFFIXES)} (or these and .gz), but {others} other "
            "files; to read files of another name as text, name them with a glob such as "
            f"'{os.path.join(folder, '**', '*.py')}'"
        )
    return paths


def _raise(error: OSError) -> None:
    raise _unreadable(error, error.filename) from error


def _suffix(name: str) -> str:
    name = name.lower()
    return os.path.splitext(name.removesuffix(".gz"))[1]


def _source_file(path: Path) -> SourceFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{path} must be a regular file, since it is read more than once; write what comes out "
            "of it to a file first"
        )
    json_lines = _suffix(path.name) in JSON_SUFFIXES
    return SourceFile(path, status.st_size, "json_lines" if json_lines else "text")


def _unreadable(error: OSError, path: Any) -> OSError:
    reason = error.strerror or str(error) or type(error).__name__
    return type(error)(
        f"cannot read {path}: {reason}; make it readable, or leave it out of the inputs"
    )


# ------------------------------------------------------------------ which documents


def documents(
    file: SourceFile,
    *,
    text_field: str = "text",
    max_document_chars: int = 1 << 18,
    on_read: Callable[[int], object] | None = None,
) -> Iterator[str]:
    """The documents of a file, in order; never more than one of them is held.

    Args:
        file: what to read.
        text_field: JSON lines: the key that holds the text.
        max_document_chars: text: the length, in characters, beyond which a file is cut.
        on_read: called with the number of bytes each time some are read from the disk.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is binary or not UTF-8 (with the byte's offset), a damaged gzip file,
            or has a line that is not a JSON object with the text field (with the line's number).
    """
    try:
        with open(file.path, "rb", buffering=0) as disk:
            stream: BinaryIO = io.BufferedReader(_Counted(disk, on_read), _CHUNK_BYTES)
            if file.path.name.lower().endswith(".gz"):
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
            if file.format == "json_lines":
                yield from _json_documents(stream, file.path, text_field)
            else:
                yield from pieces(_decoded(stream, file.path), max_document_chars)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file.path} is not a whole gzip file ({error}): it was cut short, was damaged, or is "
            "not gzip at all; fetch it again, or take .gz off its name if it is plain text"
        ) from error
    except OSError as error:
        raise _unreadable(error, file.path) from error


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


def _decoded(stream: BinaryIO, path: Path) -> Iterator[str]:
    """The text of a stream in chunks, its line ends as `\\n`."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    start = b""
    while True:
        chunk = stream.read(_CHUNK_BYTES)
        if offset == 0:
            start = chunk[:8]
            if chunk.startswith(codecs.BOM_UTF8):
                offset, chunk = 3, chunk[3:]
        if (zero := chunk.find(0)) >= 0:
            raise _not_text(path, start, offset + zero, "a zero byte")
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final=not chunk)  # type: ignore[arg-type]
        except UnicodeDecodeError as error:
            at = error.start
            raise _not_text(
                path, start, offset - pending + at, f"the byte 0x{error.object[at]:02x}"
            ) from None
        if not chunk:
            return
        offset += len(chunk)


def _not_text(path: Path, start: bytes, offset: int, what: str) -> ValueError:
    advice = next(
        (advice for magic, advice in _KNOWN_STARTS if start.startswith(magic)),
        "convert it to UTF-8, or leave it out of the inputs",
    )
    return ValueError(
        f"{path} is not UTF-8 text: {what} stands at byte {offset} of its content; {advice}"
    )


def pieces(chunks: Iterable[str], limit: int) -> Iterator[str]:
    """A text that comes in chunks, cut into pieces of at most `limit` characters (see above)."""
    text = ""
    for chunk in chunks:
        text += chunk
        while len(text) > limit:
            end = _cut(text, limit)
            if not (piece := text[:end]).isspace():
                yield piece
            text = text[end:]
    if text and not text.isspace():
        yield text


def _cut(text: str, limit: int) -> int:
    """Where to cut a document that is longer than `limit` characters."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit


def _json_documents(stream: BinaryIO, path: Path, text_field: str) -> Iterator[str]:
    number = 0
    offset = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            start = line[:8]
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError(
                f"{path}, line {number} is longer than {_MAX_LINE_BYTES >> 20} MiB; JSON lines "
                "have one object for each document on a line of its own"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"the byte 0x{error.object[error.start]:02x}"
            raise _not_text(path, start, offset + error.start, f"{byte} (line {number})") from None
        offset += len(line)
        if not text.isspace():
            document = _text_of(text, text_field, f"{path}, line {number}")
            if document and not document.isspace():
                yield document


def _text_of(line: str, text_field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where} is not JSON: {error}; a file named .json or .jsonl must hold one JSON object "
            "a line (to read it as plain text, give it another name; to leave it out, name the "
            "others with a glob)"
        ) from None
    if not isinstance(record, dict):
        raise ValueError(
            f"{where} must be a JSON object with the key {text_field!r}; received "
            f"{_json_type(record)}"
        )
    if text_field not in record:
        keys = ", ".join(repr(key) for key in list(record)[:20]) or "none"
        raise ValueError(
            f"{where} has no key {text_field!r}; its keys are: {keys}; set text_field to the one "
            "that holds the text"
        )
    text = record[text_field]
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: the value of {text_field!r} must be a string; received {_json_type(text)}; "
            "set text_field to the key that holds the text, or drop the line"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: character {error.start} of {text_field!r} is half of a surrogate pair "
            f"({error.object[error.start]!a}), which no text has; mend or drop the line"
        ) from None
    return text


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]
