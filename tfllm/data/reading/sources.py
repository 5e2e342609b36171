"""Find the files of a text source, and read the documents in them.

Formats, each plain or gzip-compressed (with a name that ends in `.gz`):

- JSON lines (`.jsonl`, `.ndjson`, `.json`): one object per line, whose text field is a document.
  Blank lines are skipped. A `.json` file may also contain one array of such objects.
- Tables (`.csv`, `.tsv`, `.tab`, `.parquet`): in each row, the column of the text field is a
  document.
- Text (everything else): a file is one document, unless it is longer than `max_document_chars`.
  Then it is cut into documents of at most that length: after the last blank line in the second
  half of the length; if there is none, after the last line end there; otherwise after the last
  space there; and otherwise at the full length. Joined, the pieces are the file.

Text is UTF-8, unless another encoding is set. A byte order mark is dropped, and the line ends
`\\r\\n` and `\\r` of a text file become `\\n`. A document that is only white space is skipped.
"""

from __future__ import annotations

import codecs
import glob
import io
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from tfllm.data.reading.json_records import (
    BadRecord,
    BadRecords,
    JsonRecord,
    OnBad,
    check_characters,
    json_records,
    json_type,
    key_of,
    keys_of,
)
from tfllm.data.reading.record_keys import is_blank
from tfllm.data.reading.source_stream import CHUNK_BYTES, not_text, opened, suffix_of, unreadable
from tfllm.data.reading.table_files import TABLE_SUFFIXES, is_table, table_rows

TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_MOST_KEYS = 10_000
"""maximum number of different keys that are counted, to bound memory"""


@dataclass(frozen=True)
class SourceFile:
    """A file that contains documents.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("notes.txt").write_text("To be, or not to be.")
        >>> (file,) = find_files("notes.txt")
        >>> file.format, file.num_bytes, list(documents(file))
        ('text', 20, ['To be, or not to be.'])
    """

    path: Path
    """path of the file, as given or found"""
    num_bytes: int
    """size on disk"""
    format: Literal["text", "json_lines", "table"]
    """format of its documents"""
    of_folder: bool = False
    """whether it was found in a folder instead of being given by its name or by a glob"""
    encoding: str = "utf-8"
    """encoding of its text"""


class LeftOut:
    """The files in folders that are not read, with the reasons."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[str]] = {}

    def add(self, path: str, reason: str) -> None:
        """Count a file, or a folder as a whole."""
        self._by_reason.setdefault(reason, []).append(path)

    def notes(self) -> list[str]:
        """For each reason, a note with the number of files and the names of the first ones."""
        return [
            f"{len(paths):,} {reason} left out: {', '.join(sorted(paths)[:5])}"
            + (", ..." if len(paths) > 5 else "")
            for reason, paths in self._by_reason.items()
        ]


# ------------------------------------------------------------------ files


def find_files(
    inputs: str | Path | Iterable[str | Path],
    *,
    exclude: Sequence[str | Path] = (),
    suffixes: tuple[str, ...] = TEXT_SUFFIXES + JSON_SUFFIXES + TABLE_SUFFIXES,
    encoding: str = "utf-8",
    left_out: LeftOut | None = None,
) -> list[SourceFile]:
    """Find files, without duplicates, sorted by path.

    Args:
        inputs: files (with any name), folders, and globs (`**` matches nested folders). In a
            folder, including its subfolders, the files are found that end in .txt, .text, .md,
            .jsonl, .ndjson, .json, .csv, .tsv, .tab or .parquet, or in one of these and .gz; hidden
            files and folders are skipped.
        exclude: folders that are not searched, such as the output folder.
        suffixes: suffixes of the files in a folder, instead of the above.
        encoding: encoding of all files. Defaults to "utf-8".
        left_out: collects the files in folders that are not read.

    Returns:
        The files.

    Raises:
        FileNotFoundError: an input does not exist, or a folder or glob yields no file.
        ValueError: no input is given.
    """
    inputs = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not inputs:
        raise ValueError("at least one text file, folder or glob is needed; received none")
    excluded = {os.path.realpath(folder) for folder in exclude}
    found: dict[str, tuple[Path, bool]] = {}
    for entry in sorted(map(os.path.expanduser, map(str, inputs)), key=os.path.isdir):
        for path in _paths(entry, excluded, suffixes, left_out):
            found.setdefault(os.path.realpath(path), (Path(path), os.path.isdir(entry)))
    files = [_source_file(*file, encoding) for file in found.values()]
    return sorted(files, key=lambda file: file.path.as_posix())


def _paths(
    entry: str, excluded: set[str], suffixes: tuple[str, ...], left_out: LeftOut | None
) -> list[str]:
    if os.path.isdir(entry):
        return _files_below(entry, excluded, suffixes, left_out or LeftOut())
    if os.path.lexists(entry):
        return [entry]
    if not glob.has_magic(entry):
        raise FileNotFoundError(
            f"{entry} does not exist; give a text file, a folder of them, or a quoted glob such as "
            "'texts/**/*.txt'"
        )
    paths = []
    for path in glob.glob(entry, recursive=True):
        if not os.path.isdir(path):
            paths.append(path)
    if not paths:
        raise FileNotFoundError(
            f"no file matches the glob {entry!r}; ** matches nested folders, as in 'texts/**/*.txt'"
        )
    return paths


def _files_below(
    folder: str, excluded: set[str], suffixes: tuple[str, ...], left_out: LeftOut
) -> list[str]:
    paths: list[str] = []
    others = 0
    visited = set(excluded)
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in visited:  # excluded, or a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        for name in folders:
            if name.startswith("."):
                left_out.add(os.path.join(parent, name), "hidden folders (a dot before the name)")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(parent, name)
            if name.startswith("."):
                left_out.add(path, "hidden files (a dot before the name)")
            elif suffix_of(name) in suffixes:
                paths.append(path)
            else:
                left_out.add(path, f"files that do not end in {', '.join(suffixes)}")
                others += 1
    if not paths:
        raise FileNotFoundError(
            f"the folder {folder} contains no file that ends in "
            f"{', '.join(suffixes)} (or these and .gz), but {others} other "
            "files; to read files with other names as text, give a glob such as "
            f"'{os.path.join(folder, '**', '*.py')}'"
        )
    return paths


def _raise(error: OSError) -> None:
    raise unreadable(error, error.filename) from error


def _source_file(path: Path, of_folder: bool, encoding: str) -> SourceFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{path} must be a regular file, since it is read more than once; write its content to "
            "a file first"
        )
    kind: Literal["text", "json_lines", "table"] = "table" if is_table(path) else "text"
    if suffix_of(path.name) in JSON_SUFFIXES:
        kind = "json_lines"
    return SourceFile(path, status.st_size, kind, of_folder, encoding)


# ------------------------------------------------------------------ documents


def documents(
    file: SourceFile,
    *,
    text_field: str = "text",
    max_document_chars: int = 1 << 18,
    on_read: Callable[[int], object] | None = None,
    on_bad: OnBad | None = None,
    unused: Counter[str] | None = None,
) -> Iterator[str]:
    """Yield the documents of a file in order, holding one of them in memory at a time.

    Args:
        file: the file.
        text_field: for JSON lines and tables: key of the text. Defaults to "text".
        max_document_chars: for text: number of characters beyond which a file is cut. Defaults to
            262,144.
        on_read: called with the number of bytes after each read from the disk.
        on_bad: called with the error of each JSON record that cannot be used. By default, the first
            error is raised.
        unused: for JSON lines and tables: counts the other keys that have a value.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is binary or not UTF-8 (the error gives the byte's offset), is a
            damaged gzip file, or has a line that is not a JSON object with the text field (the
            error gives the line's number).
    """
    if file.format != "text":
        on_bad = on_bad or BadRecords(False)
        found = records(file, on_read=on_read, on_bad=on_bad)
        yield from _documents_of(found, text_field, on_bad, unused)
        return
    with opened(file.path, on_read, file.encoding) as stream:
        yield from pieces(_decoded(stream, file.path), max_document_chars)


def check_text(file: SourceFile) -> None:
    """Check a text file by reading it to its end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is binary or in another encoding, or is a damaged gzip file.
    """
    with opened(file.path, encoding=file.encoding) as stream:
        for _ in _decoded(stream, file.path):
            pass


def records(
    file: SourceFile,
    *,
    on_read: Callable[[int], object] | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[JsonRecord]:
    """Yield the records of a JSON file or a table in order, with their places (see `documents`)."""
    if file.format == "table":
        rows = table_rows(file.path, on_bad or BadRecords(False), on_read, file.encoding)
        yield from (JsonRecord(where, row) for where, row in rows)
        return
    with opened(file.path, on_read, file.encoding) as stream:
        yield from json_records(stream, file.path, on_bad or BadRecords(False))


def _decoded(stream: BinaryIO, path: Path) -> Iterator[str]:
    """The text of a stream in chunks, with all line ends as `\\n`."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    start = b""
    while True:
        chunk = stream.read(CHUNK_BYTES)
        if offset == 0:
            start = chunk[:8]
            if chunk.startswith(codecs.BOM_UTF8):
                offset, chunk = 3, chunk[3:]
        if (zero := chunk.find(0)) >= 0:
            raise not_text(path, start, offset + zero, "a zero byte")
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final=not chunk)  # type: ignore[arg-type]
        except UnicodeDecodeError as error:
            at = error.start
            raise not_text(
                path, start, offset - pending + at, f"the byte 0x{error.object[at]:02x}"
            ) from None
        if not chunk:
            return
        offset += len(chunk)


def pieces(chunks: Iterable[str], limit: int) -> Iterator[str]:
    """Cut a text, given in chunks, into pieces of at most `limit` characters (see the module)."""
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
    """The position at which to cut a document that is longer than `limit` characters."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit


def _documents_of(
    found: Iterator[JsonRecord], text_field: str, on_bad: OnBad, unused: Counter[str] | None
) -> Iterator[str]:
    for record in found:
        try:
            text = text_of(record, text_field)
        except BadRecord as error:
            on_bad(error)
            continue
        if unused is not None:
            own = key_of(record.value, text_field)
            others = [key for key, value in record.value.items() if not is_blank(value)]
            unused.update(
                key for key in others if key != own and (key in unused or len(unused) < _MOST_KEYS)
            )
        if text and not text.isspace():
            yield text


def text_of(record: JsonRecord, text_field: str) -> str:
    """The text of a record that is a document.

    Raises:
        BadRecord: it has no text.
    """
    where, value = record.where, record.value
    if not isinstance(value, dict):
        raise BadRecord(
            where,
            f" must be a JSON object with the key {text_field!r}; received {json_type(value)}",
        )
    key = key_of(value, text_field)
    if key is None:
        raise BadRecord(
            where,
            f" has no key {text_field!r}; its keys are: {keys_of(value)}; set text_field to the "
            "one that holds the text (training examples have messages, or prompt and response, or "
            "instruction and output)",
        )
    text = value[key]
    if not isinstance(text, str):
        raise BadRecord(
            where,
            f": the value of {text_field!r} must be a string; received {json_type(text)}; set "
            "text_field to the key that holds the text, or remove the line",
        )
    check_characters(text, where, text_field)
    return text
