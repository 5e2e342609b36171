"""Read the rows of CSV, TSV and Parquet tables as dictionaries of columns and values.

CSV and TSV files are UTF-8 unless another encoding is given, plain or gzip-compressed, and contain
strings; Parquet files are compressed internally, and contain values of many types.
"""

from __future__ import annotations

import csv
import datetime
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tfllm.data.reading.json_records import BadRecord, OnBad
from tfllm.data.reading.source_stream import not_text, opened, suffix_of

TAB_SUFFIXES = (".tsv", ".tab")
PARQUET = ".parquet"
TABLE_SUFFIXES = (".csv", *TAB_SUFFIXES, PARQUET)
_MOST_CHARACTERS = 1 << 28
"""maximum number of characters in a field"""
_BATCH_ROWS = 256
"""number of Parquet rows that are held at a time"""

Rows = Iterator[tuple[str, dict[str, Any]]]
"""pairs of the place (file and line or row), for errors, and a dictionary of columns and values"""


def is_table(path: Path) -> bool:
    """Whether a file is a table according to its name."""
    return suffix_of(path.name) in TABLE_SUFFIXES


def table_rows(
    path: Path,
    on_bad: OnBad,
    on_read: Callable[[int], object] | None = None,
    encoding: str = "utf-8",
) -> Rows:
    """The rows of a file in order.

    Args:
        path: the file, whose suffix determines its format.
        on_bad: called with the error of each malformed row; raises it or returns.
        on_read: called with the number of bytes after each read from the disk.
        encoding: encoding of CSV and TSV files.

    Raises:
        ValueError: the file is damaged, not UTF-8, or Parquet that cannot be read here.
        OSError: it cannot be read.
    """
    if suffix_of(path.name) == PARQUET:
        yield from _of_parquet(path, on_read)
        return
    with opened(path, on_read, encoding) as stream:
        read = _of_csv if suffix_of(path.name) == ".csv" else _of_tsv
        yield from read(stream, path, on_bad)


def table_columns(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a table, also if it has no rows.

    Raises:
        ValueError, OSError: as `table_rows`.
    """
    if suffix_of(path.name) == PARQUET:
        return _parquet_file(path).schema_arrow.names
    with opened(path, encoding=encoding) as stream:
        if suffix_of(path.name) != ".csv":
            first = next((line for line in text_lines(stream, path) if line.strip("\r\n")), "")
            return [name.strip() for name in first.rstrip("\r\n").split("\t")]
        lines = text_lines(stream, path)
        first = next(lines, "")
        fields = next(filter(None, csv.reader([first], delimiter=_delimiter(first))), [])
        return [name.strip() for name in fields]


def text_lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of a stream, including their line ends.

    Raises:
        ValueError: the file is not UTF-8.
    """
    offset, start = 0, b""
    for number, line in enumerate(stream, 1):
        if number == 1:
            start = line[:8]
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            what = f"the byte 0x{error.object[error.start]:02x} (line {number})"
            raise not_text(path, start, offset + error.start, what) from None
        offset += len(line)
        yield text


# ------------------------------------------------------------------ CSV and TSV


def _delimiter(first: str) -> str:
    return ";" if first.count(";") > first.count(",") else ","


def _of_csv(stream: BinaryIO, path: Path, on_bad: OnBad) -> Rows:
    lines = text_lines(stream, path)
    first = next(lines, "")
    csv.field_size_limit(_MOST_CHARACTERS)

    def again() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(again(), delimiter=_delimiter(first), strict=True)
    header: list[str] | None = None
    begin = 1
    while True:
        where = f"{path}, line {begin}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            broken = BadRecord(where, f" is not a valid CSV record: {error}")
            begin = reader.line_num + 1
            if header is None:
                raise broken from None
            on_bad(broken)
            continue
        begin = reader.line_num + 1
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if header is None:
            header = _checked_header(fields, path)
        else:
            yield from _of_fields(header, fields, where, on_bad)


def _of_tsv(stream: BinaryIO, path: Path, on_bad: OnBad) -> Rows:
    header: list[str] | None = None
    for number, line in enumerate(text_lines(stream, path), 1):
        text = line.rstrip("\r\n")
        if not text:
            continue
        fields = text.split("\t")
        if header is None:
            header = _checked_header(fields, path)
        else:
            yield from _of_fields(header, fields, f"{path}, line {number}", on_bad)


def _checked_header(fields: list[str], path: Path) -> list[str]:
    names = [field.strip() for field in fields]
    _expect_different(names, f"{path}, line 1")
    return names


def _expect_different(names: list[str], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where} must name each column once; {twice!r} occurs more than once")


def _of_fields(header: list[str], fields: list[str], where: str, on_bad: OnBad) -> Rows:
    if len(fields) == len(header):
        yield where, dict(zip(header, fields, strict=True))
        return
    named = ", ".join(header[:10]) + (", ..." if len(header) > 10 else "")
    rule = f" must have {len(header)} fields ({named}); received {len(fields)}"
    on_bad(BadRecord(where, rule))


# ------------------------------------------------------------------ Parquet


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"{path} is Parquet, which needs pyarrow ({error}); install the extra: "
            "pip install 'tfllm[parquet]', or write the table as CSV or JSON lines"
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise _damaged(path, error) from None
    _expect_different(file.schema_arrow.names, f"the schema of {path}")
    return file


def _of_parquet(path: Path, on_read: Callable[[int], object] | None) -> Rows:
    file = _parquet_file(path)
    import pyarrow

    total, num_rows = path.stat().st_size, file.metadata.num_rows
    number = reported = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {k: _plain(v) for k, v in row.items()}
                if on_read is not None:
                    now = total * number // max(num_rows, 1)
                    on_read(now - reported)
                    reported = now
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a complete Parquet file ({str(error).splitlines()[0]}): it was truncated "
        "or damaged, or is not Parquet at all; download it again"
    )


def _plain(value: Any) -> Any:
    """Convert a value to a JSON type.

    Null fields of a struct are left out: Parquet has one schema for all rows, so a field that was
    missing in a row of the original data is null here.
    """
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):  # may be text that its writer did not mark as such
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value
