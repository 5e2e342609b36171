"""Read records with named columns, from files in common formats.

Formats, each plain or gzip-compressed (`.gz`), in UTF-8 unless another encoding is given:

- JSON lines (`.jsonl`, `.ndjson`, `.json`): an object per line, whose keys are the columns; or
  (`.json`) an array of such objects; or a data set in SQuAD's format (see
  `tfllm.data.reading.squad`). Translations may be nested,
  `{"translation": {"en": "Hello", "es": "Hola"}}`: each language is a column.
- CSV (`.csv`): the first line names the columns, separated by `,` or `;` (whichever is more
  frequent in the first line); quoted fields may contain line ends.
- TSV (`.tsv`, `.tab`): the same with tabs; quotes have no special meaning, and a line is a record.
- Parquet (`.parquet`), with the extra `parquet`.
- CoNLL (`.conll`, `.bio`, `.iob`): tagged words, one per line (see `tfllm.data.reading.conll`).
- Parallel lines: `{"source": "a.en", "target": "a.de"}` reads plain text files with equally many
  lines in parallel, one file per column.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfllm.config import ConfigError, unknown_name
from tfllm.data.reading.conll import CONLL_SUFFIXES, conll_records
from tfllm.data.reading.json_records import (
    BadRecord,
    BadRecords,
    OnBad,
    check_characters,
    json_records,
    json_type,
)
from tfllm.data.reading.source_stream import opened, suffix_of
from tfllm.data.reading.sources import JSON_SUFFIXES, SourceFile, find_files
from tfllm.data.reading.squad import is_squad, squad_records
from tfllm.data.reading.table_files import TABLE_SUFFIXES, is_table, table_rows, text_lines

RECORD_SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES, *CONLL_SUFFIXES)

Source = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""files, folders and globs; or a mapping of columns to files of lines"""


@dataclass(frozen=True)
class Column:
    """A column that a task reads."""

    aliases: tuple[str, ...] = ()
    """other names of the column in data sets; the first that exists is used"""
    required: bool = True
    """whether a record must have it; an optional column that is missing or blank is None"""
    kind: Literal["text", "label", "json"] = "text"
    """text: a string; label: a string, number or boolean, converted to text without surrounding
    space; json: any value, which CSV and TSV files contain as JSON"""
    is_input: bool = True
    """whether it is an input of predictions; other columns are used for training and evaluation"""


class Record(dict[str, Any]):
    """A record as a dictionary of the requested columns; `where` is its file and line."""

    def __init__(self, values: Mapping[str, Any], where: str = "") -> None:
        super().__init__(values)
        self.where = where


@dataclass(frozen=True)
class Table:
    """The records that were read."""

    records: list[Record]
    files: list[SourceFile]
    notes: list[str]
    """notes on bad records that were skipped"""


def read_table(
    source: Source,
    columns: Mapping[str, Column],
    names: Mapping[str, str] | None = None,
    *,
    skip_bad_records: bool = False,
    only_inputs: bool = False,
    empty_inputs: bool = False,
    exclude: Sequence[str | Path] = (),
    encoding: str = "utf-8",
) -> Table:
    """Read all records of files into memory, in the order of the files' names.

    Args:
        source: files, folders and globs; or a plain text file for each column.
        columns: columns to read, by their names in the result.
        names: maps columns to their names in the files, where these are neither the column's name
            nor one of its aliases (names are compared without case).
        skip_bad_records: whether to skip and count malformed records instead of raising the first
            error.
        only_inputs: whether columns that are not inputs may be missing.
        empty_inputs: whether an input may be an empty text.
        exclude: folders that are not searched.
        encoding: encoding of all files except for Parquet.

    Raises:
        FileNotFoundError: there are no such files.
        ConfigError: `names` has a column that the task does not have.
        ValueError: a file is damaged, lacks a column (the error lists those that it has), or
            contains a malformed record (the error gives file and line); or no record is left.
    """
    for name in names or {}:
        if name not in columns:
            raise ConfigError(unknown_name("column", name, columns))
    source = as_source(source)
    bad = BadRecords(skip_bad_records)
    read = _Columns(columns, dict(names or {}), only_inputs, empty_inputs)
    files = source_files(source, exclude=exclude, encoding=encoding)
    rows: Iterator[tuple[str, dict[str, Any]]]
    if isinstance(source, Mapping):
        known = {c.lower() for n, column in columns.items() for c in (n, *column.aliases)}
        known |= {name.lower() for name in (names or {}).values()}
        for name in source:
            if str(name).lower() not in known:
                raise ConfigError(unknown_name("column", str(name), columns))
        rows = _lines_side_by_side(dict(zip(source, files, strict=True)))
    else:
        rows = (row for file in files for row in _rows(file, bad))
    records = []
    for where, row in rows:
        try:
            records.append(read.record(row, where))
        except BadRecord as error:
            bad(error)
    if not records:
        paths = ", ".join(str(file.path) for file in files[:5])
        raise ValueError(
            f"there is no record in {paths}{', ...' if len(files) > 5 else ''}"
            + (f": {bad.note()}" if bad.count else "; give files with records")
        )
    return Table(records, files, bad.warn())


def as_source(given: Source) -> Source:
    """Convert "a=FILE,b=FILE" to a mapping of columns to files; other sources are unchanged.

    Args:
        given: a source, or a list with such a string as its only element.
    """
    text = given[0] if isinstance(given, list | tuple) and len(given) == 1 else given
    if isinstance(text, str) and not os.path.exists(text):
        parts = [part.partition("=") for part in text.split(",")]
        if all(name.isidentifier() and equals and path for name, equals, path in parts):
            return {name: path for name, _, path in parts}
    return given


def source_files(
    source: Source, *, exclude: Sequence[str | Path] = (), encoding: str = "utf-8"
) -> list[SourceFile]:
    """Find the files of a source.

    Raises:
        FileNotFoundError: there are none.
    """
    if isinstance(source, Mapping):
        return [find_files(path, encoding=encoding)[0] for path in source.values()]
    return find_files(source, exclude=exclude, suffixes=RECORD_SUFFIXES, encoding=encoding)


class _Columns:
    """Converts rows of files to records with the requested columns."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        names: dict[str, str],
        only_inputs: bool,
        empty_inputs: bool,
    ) -> None:
        self._columns = columns
        self._names = names
        self._only_inputs = only_inputs
        self._empty_inputs = empty_inputs
        self._known: dict[tuple[str, ...], dict[str, str]] = {}

    def record(self, row: dict[str, Any], where: str) -> Record:
        """Convert a row to a record.

        Raises:
            BadRecord: a column is missing, or its value is not of the column's kind.
        """
        keys = tuple(row)
        if keys not in self._known:
            if len(self._known) > 1000:  # each record of JSON lines may have different keys
                self._known.clear()
            self._known[keys] = self._found(keys, where)
        found = self._known[keys]
        values = {
            name: self._value(name, column, row.get(found.get(name, "")), where)
            for name, column in self._columns.items()
        }
        return Record(values, where)

    def _found(self, keys: tuple[str, ...], where: str) -> dict[str, str]:
        """Maps columns to keys of the row."""
        lower = {key.strip().lower(): key for key in reversed(keys)}
        found = {}
        for name, column in self._columns.items():
            wanted = [self._names[name]] if name in self._names else [name, *column.aliases]
            key = next((k for k in wanted if k in keys), None)
            if key is None:
                key = next((lower[k.lower()] for k in wanted if k.lower() in lower), None)
            if key is not None:
                found[name] = key
            elif name in self._names or self._is_needed(column):
                has = ", ".join(map(repr, keys[:20])) or "none"
                called = f" ({' or '.join(map(repr, wanted))})" if len(wanted) > 1 else ""
                asked = self._names.get(name, name)
                raise BadRecord(
                    where,
                    f" has no column {asked!r}{called}; its columns are {has}; name the right one "
                    f"with --columns {name}=NAME (in Python columns={{{name!r}: 'NAME'}})",
                )
        return found

    def _is_needed(self, column: Column) -> bool:
        return column.required and (column.is_input or not self._only_inputs)

    def _value(self, name: str, column: Column, value: Any, where: str) -> Any:
        needed = self._is_needed(column)
        if value is None and not needed:
            return None
        if column.kind == "json":
            if isinstance(value, str):
                try:
                    value = json.loads(value) if value.strip() or needed else None
                except ValueError as error:
                    rule = f": {name!r} must be JSON; received {value!r:.60} ({error})"
                    raise BadRecord(where, rule) from None
            return value
        if column.kind == "label" and isinstance(value, int | float):
            value = json.dumps(value)
        if not isinstance(value, str):
            noun = "a string" if column.kind == "text" else "a string or a number"
            raise BadRecord(where, f": {name!r} must be {noun}; received {json_type(value)}")
        check_characters(value, where, name)
        if column.kind == "label":
            value = value.strip()
        if not value or value.isspace():
            if not needed:
                return None
            if not (self._empty_inputs and column.is_input):
                raise BadRecord(where, f": {name!r} is empty")
        return value


def _rows(file: SourceFile, on_bad: OnBad) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) for the rows of a file."""
    suffix = suffix_of(file.path.name)
    if suffix not in RECORD_SUFFIXES:
        raise ValueError(
            f"{file.path} must end in {', '.join(RECORD_SUFFIXES)} (or these and .gz), which "
            "determines its format"
        )
    if is_table(file.path):
        yield from table_rows(file.path, on_bad, encoding=file.encoding)
        return
    with opened(file.path, encoding=file.encoding) as stream:
        if suffix in JSON_SUFFIXES:
            for record in json_records(stream, file.path, on_bad):
                if isinstance(record.value, dict) and is_squad(record.value):
                    yield from squad_records(record.value, record.where, on_bad)
                elif isinstance(record.value, dict):
                    yield record.where, _with_languages(record.value)
                else:
                    rule = f" must be a JSON object; received {json_type(record.value)}"
                    on_bad(BadRecord(record.where, rule))
        else:
            yield from conll_records(text_lines(stream, file.path), file.path, on_bad)


def _with_languages(row: dict[str, Any]) -> dict[str, Any]:
    """Replace the object `translation` of a row by a column for each of its languages."""
    languages = row.get("translation")
    if not isinstance(languages, dict):
        return row
    return {**{name: value for name, value in row.items() if name != "translation"}, **languages}


def _lines_side_by_side(files: dict[str, SourceFile]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row), where row i consists of line i of each file."""
    columns: dict[str, list[str]] = {}
    for name, file in files.items():
        with opened(file.path, encoding=file.encoding) as stream:
            columns[name] = [line.rstrip("\r\n") for line in text_lines(stream, file.path)]
    lengths = {name: len(lines) for name, lines in columns.items()}
    if len(set(lengths.values())) > 1:
        received = ", ".join(f"{files[name].path} {n:,}" for name, n in lengths.items())
        raise ValueError(
            f"files of parallel lines must have the same number of lines; received {received}"
        )
    first = next(iter(files.values())).path
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        if any(value.strip() for value in values):
            yield f"{first}, line {number}", dict(zip(columns, values, strict=True))
