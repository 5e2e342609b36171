"""Determine the kind of the records in files: text, examples or preferences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.reading.example_messages import speaker_key
from tfllm.data.reading.json_records import key_of
from tfllm.data.reading.record_keys import SUPPORTED, RecordKeys
from tfllm.data.reading.sources import SourceFile, records
from tfllm.data.reading.table_files import table_columns

Kind = Literal["text", "examples", "preference"]

_KINDS: tuple[Kind, ...] = ("preference", "examples")
_LOOK_AT = 20
"""number of records at the start of a file that are inspected"""


def kind_of_record(record: Any, text_field: str, keys: RecordKeys | None = None) -> Kind | None:
    """The kind of a record according to its keys; None if it is of no known kind."""
    if not isinstance(record, dict):
        return None
    text = key_of(record, text_field)
    if text_field != "text" and text is not None:  # the user named this key
        return "text"
    found = (keys or RecordKeys()).found(record)
    has = {name for name, those in found.items() if record[those[0]] is not None}
    for has_any in (has, set(found)):
        if {"chosen", "rejected"} <= has_any:
            return "preference"
        if "messages" in has_any or ("response" in has_any and has_any & {"prompt", "input"}):
            return "examples"
        if text is not None:
            return "text"
    return None


def kind_of_files(files: Sequence[SourceFile], config: PrepareConfig) -> Kind:
    """The kind of the records in files, according to `columns` or the first records of each.

    Raises:
        ConfigError: some files contain preferences and others examples.
        ValueError: a file is damaged.
    """
    if named := set(config.column_names) - {"text"}:
        return "preference" if named & {"chosen", "rejected"} else "examples"
    keys = RecordKeys(config.column_names)
    found: dict[Kind, SourceFile] = {}
    for file in files:
        for here in _kinds_at_start(file, config.text_field, keys):
            found.setdefault(here, file)
    if "preference" in found and "examples" in found:
        raise ConfigError(
            f"records must be of one kind, but {found['preference'].path} contains preferences "
            f"(chosen, rejected), and {found['examples'].path} examples; prepare them separately, "
            "or name the task: --task preference or --task instruction"
        )
    return next((k for k in _KINDS if k in found), "text")


def check_kind(files: Sequence[SourceFile], kind: Kind) -> None:
    """Check that files can contain records of a kind.

    Raises:
        ConfigError: a file is plain text, but examples or preferences are needed.
    """
    if kind == "text":
        return
    for file in files:
        if file.format == "text":
            raise ConfigError(
                f"{'examples' if kind == 'examples' else 'preferences'} are JSON lines (.jsonl, "
                f".ndjson, .json) or tables (.csv, .tsv, .parquet), but {file.path} is not; leave "
                "it out, or read all files as text with --task language_modeling"
            )


def without_other_tables(
    files: Sequence[SourceFile], config: PrepareConfig, kind: Kind
) -> tuple[list[SourceFile], list[str]]:
    """Leave out tables in folders that contain neither text nor examples.

    Returns:
        The other files, and a note on the tables that were left out.

    Raises:
        ValueError: such a table was given by its name or by a glob; or there are no other files.
    """
    kept, others = [], []
    for file in files:
        if file.format != "table" or _is_known_table(file, config, kind):
            kept.append(file)
        elif file.of_folder:
            others.append(file)
        else:
            raise _unknown_table(file, config)
    if not others:
        return kept, []
    if not kept:
        raise _unknown_table(others[0], config)
    names = ", ".join(str(file.path) for file in others[:5]) + (", ..." if others[5:] else "")
    one = len(others) == 1
    note = (
        f"{len(others)} table{'' if one else 's'} without a column of text or of examples "
        f"{'was' if one else 'were'} left out: {names}"
    )
    return kept, [note]


def _is_known_table(file: SourceFile, config: PrepareConfig, kind: Kind) -> bool:
    columns = table_columns(file.path, file.encoding)
    if not any(columns):  # an empty file
        return True
    row = dict.fromkeys(columns, "")
    if kind == "text":
        return key_of(row, config.text_field) is not None
    if config.column_names and not file.of_folder:
        return True  # reading it reports the missing column
    return kind_of_record(row, config.text_field, RecordKeys(config.column_names)) is not None


def _unknown_table(file: SourceFile, config: PrepareConfig) -> ValueError:
    columns = ", ".join(map(repr, table_columns(file.path, file.encoding)[:20]))
    known = "; ".join(
        f"{name} ({', '.join(SUPPORTED[name])})" for name in ("prompt", "response", "messages")
    )
    return ValueError(
        f"{file.path} is a table without a known column; its columns are {columns}. Known columns "
        f"of examples are {known}; of preferences chosen and rejected; of text "
        f"{config.text_field}. Name the right ones with --columns prompt=NAME response=NAME or "
        "with --text-field NAME; or leave the file out; or, to read all of it as plain text, give "
        "it a name that ends in .txt"
    )


def _kinds_at_start(file: SourceFile, text_field: str, keys: RecordKeys) -> set[Kind]:
    if file.format == "text":
        return set()
    kinds = set()
    for record in itertools.islice(records(file, on_bad=lambda error: None), _LOOK_AT):
        kind = kind_of_record(record.value, text_field, keys)
        if kind == "text" and (key := speaker_key(record.value)) is not None:
            raise ConfigError(
                f"{record.where} is a single message of a conversation, {key} "
                f"{record.value[key]!r}; write each conversation as one record, "
                '{"messages": [{"role": ..., "content": ...}, ...]}, or, to learn each message as '
                "a separate text, name the task: --task language_modeling"
            )
        if kind is not None:
            kinds.add(kind)
    return kinds
