"""Read JSON records: one object per line, or a .json file with one array of them."""

from __future__ import annotations

import codecs
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tfllm.data.reading.source_stream import CHUNK_BYTES, not_text, suffix_of

_MAX_LINE_BYTES = 1 << 28
_FIRST_PLACES = 5
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class JsonRecord:
    """One JSON value of a file."""

    where: str
    """its file and line, for errors"""
    value: Any
    """the value as `json.loads` returns it"""


class BadRecord(ValueError):
    """A record that cannot be used."""

    def __init__(self, where: str, rest: str) -> None:
        """Join the place, file and line, with the rest of the message, such as " is not JSON"."""
        super().__init__(f"{where}{rest}")
        self.where = where


OnBad = Callable[[BadRecord], None]


class BadRecords:
    """Handler of bad records: raises the first one, or skips and counts them.

    Args:
        skip: whether to skip bad records.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.count = 0
        self._first: list[BadRecord] = []

    def __call__(self, error: BadRecord) -> None:
        """Handle a bad record.

        Raises:
            BadRecord: bad records are not skipped.
        """
        if not self.skip:
            advice = "; fix it, or set skip_bad_records to skip such records"
            raise BadRecord(error.where, str(error).removeprefix(error.where) + advice) from error
        self.count += 1
        if len(self._first) < _FIRST_PLACES:
            self._first.append(error)

    def warn(self) -> list[str]:
        """Warn of bad records, if there were any; returns the notes."""
        if not self.count:
            return []
        warnings.warn(self.note(), UserWarning, stacklevel=4)  # the caller of `prepare`
        return [self.note()]

    def note(self) -> str:
        """The number of bad records, the places of the first ones, and the error of the first."""
        places = "; ".join(error.where for error in self._first)
        more = "; ..." if self.count > len(self._first) else ""
        were = "record was" if self.count == 1 else "records were"
        return f"{self.count} bad {were} skipped ({places}{more}). The first: {self._first[0]}"


def json_records(stream: BinaryIO, path: Path, on_bad: OnBad) -> Iterator[JsonRecord]:
    """The records of a file in order; blank lines are skipped.

    Args:
        stream: the content of the file, with `peek`.
        path: path of the file, for errors; only a .json file may contain an array.
        on_bad: called with the error of each line that is not JSON; raises it or returns.

    Raises:
        ValueError: a line is too long, or an array is malformed, so that the rest cannot be read.
    """
    if suffix_of(path.name) == ".json":
        head: bytes = stream.peek(1)[:1024]  # type: ignore[attr-defined]
        if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            return _of_array(stream, path)
    return _of_lines(stream, path, on_bad)


def _of_lines(stream: BinaryIO, path: Path, on_bad: OnBad) -> Iterator[JsonRecord]:
    number = 0
    offset = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        where = f"{path}, line {number}"
        if number == 1:
            start = line[:8]
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError(
                f"{where} is longer than {_MAX_LINE_BYTES >> 20} MiB; in JSON lines, each document "
                "is an object on its own line"
            )
        here, offset = offset, offset + len(line)
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = f"the byte 0x{error.object[error.start]:02x}"
            bad = not_text(path, start, here + error.start, f"{byte} (line {number})")
            on_bad(BadRecord(where, f": {bad}"))
            continue
        if text.isspace():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = (
                f" is not JSON: {error}; a file named .jsonl or .json must contain one JSON object "
                "per line, or (.json) one array of them (to read it as plain text, give it another "
                "name; to leave it out, select the others with a glob)"
            )
            on_bad(BadRecord(where, message))
            continue
        yield JsonRecord(where, value)


def _of_array(stream: BinaryIO, path: Path) -> Iterator[JsonRecord]:
    """The elements of one array, of which only a few are held in memory at a time."""
    decode = json.JSONDecoder().raw_decode
    text = _ArrayText(stream, path)
    text.skip("[")
    while text.next() != "]":
        if text.number:
            text.skip(",")
            text.next()
        text.number += 1
        where = f"{path}, record {text.number} (line {text.line})"
        while True:
            try:
                value, end = decode(text.held, text.at)
                if end < len(text.held) or not text.more():  # otherwise a number may continue
                    break
            except json.JSONDecodeError as error:
                if not text.more():
                    raise text.broken(error.msg, error.pos) from None
            except RecursionError:
                if not text.more():
                    raise text.broken("it is nested too deeply", text.at) from None
        text.move(end)
        yield JsonRecord(where, value)
    text.move(text.at + 1)
    if text.next():
        raise ValueError(
            f"{path}, {text.place(text.at)}: text follows the end of the array, after record "
            f"{text.number}; a .json file contains one array of records, or one object per line"
        )


class _ArrayText:
    """A window on the text of a file, which is consumed up to position `at`."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self.held = ""
        self.at = 0
        self.line = 1
        """line number of position `at`"""
        self.number = 0
        """number of the record that is being read, or was read last"""
        self._column = 1
        self._characters = 0
        """number of characters in the file before the window"""
        self._stream = stream
        self._path = path
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._read = 0
        self._start = b""
        self._fault: tuple[int, int] | None = None
        """offset and value of the first byte that is not UTF-8"""

    def more(self) -> bool:
        """Double the window; returns whether there was more text."""
        unused = len(self.held) - self.at
        if unused > _MAX_LINE_BYTES:
            raise ValueError(
                f"{self._path}, record {self.number} (line {self.line}) is longer than "
                f"{_MAX_LINE_BYTES >> 20} MiB, or is not JSON; fix it, or write JSON lines"
            )
        if self._fault is not None:
            line = self.line + self.held.count("\n", self.at)
            offset, byte = self._fault
            what = f"the byte 0x{byte:02x} (line {line}, in or after record {self.number})"
            raise not_text(self._path, self._start, offset, what)
        chunk = self._stream.read(max(CHUNK_BYTES, unused))
        if not self._read:
            self._start = chunk[:8]
        pending = len(self._utf8.getstate()[0])
        try:
            new = self._utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:  # read the text before it first
            self._fault = self._read - pending + error.start, error.object[error.start]
            new = error.object[: error.start].decode("utf-8" if self._read else "utf-8-sig")
        self._read += len(chunk)
        if new:
            self._characters += self.at
            self.held, self.at = self.held[self.at :] + new, 0
        return bool(chunk) or self._fault is not None

    def next(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            space = _SPACE.match(self.held, self.at)
            assert space is not None
            self.move(space.end())
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def skip(self, character: str) -> None:
        """Step over `character`, which must be the next one."""
        if (received := self.next()) != character:
            follows = f"{received!r} follows" if received else "the file ends there"
            message = f"{character!r} or ']' must follow it, but {follows}"
            raise self.broken(message, self.at, f"after record {self.number}")
        self.move(self.at + 1)

    def move(self, to: int) -> None:
        """Consume the text up to position `to`."""
        self.line, self._column = self._line_and_column(to)
        self.at = to

    def place(self, position: int) -> str:
        """Describe where a position of the window is in the file."""
        line, column = self._line_and_column(position)
        return f"line {line}, column {column} (character {self._characters + position})"

    def broken(self, message: str, position: int, what: str | None = None) -> ValueError:
        """The error for malformed JSON, with the record and the position in the file."""
        what = what or f"record {self.number} (line {self.line})"
        return ValueError(
            f"{self._path}, {what} is not JSON: {message}: "
            f"{self.place(position)}; nothing after it can be read. Fix it, or download the file "
            "again"
        )

    def _line_and_column(self, position: int) -> tuple[int, int]:
        lines = self.held.count("\n", self.at, position)
        if not lines:
            return self.line, self._column + position - self.at
        return self.line + lines, position - self.held.rindex("\n", self.at, position)


def json_type(value: Any) -> str:
    """The name of a value's type in JSON, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a value of the type {type(value).__name__}")


def keys_of(record: dict[str, Any]) -> str:
    """List the keys of an object, for an error."""
    return ", ".join(repr(key) for key in list(record)[:20]) or "none"


def key_of(record: dict[str, Any], name: str) -> str | None:
    """The key of an object that equals `name`, if need be without case and surrounding space."""
    if name in record:
        return name
    return next((key for key in record if key.strip().lower() == name.lower()), None)


def check_characters(text: str, where: str, name: str) -> None:
    """Check that a string can be encoded in UTF-8.

    Raises:
        BadRecord: it contains a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            where,
            f": character {error.start} of {name!r} is half of a surrogate pair "
            f"({error.object[error.start]!a}), which is invalid in text; fix or remove the line",
        ) from None
