"""What the records of some files are: text, examples or preferences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.sources import SourceFile, records

Kind = Literal["text", "examples", "preference"]

CONVERSATIONS = ("messages", "conversations")
PROMPTS = ("prompt", "instruction")
RESPONSES = ("response", "output", "completion")
"""the keys that a conversation, or an example's prompt and its response, may stand under"""

_LOOK_AT = 20
"""records at the start of a file"""


def kind_of_record(record: Any, text_field: str) -> Kind | None:
    """What a record's keys say that it is; None where it is none."""
    if not isinstance(record, dict):
        return None
    if text_field != "text" and text_field in record:  # asked for by name
        return "text"
    if "chosen" in record and "rejected" in record:
        return "preference"
    has_pair = any(key in record for key in PROMPTS) and any(key in record for key in RESPONSES)
    if has_pair or any(key in record for key in CONVERSATIONS):
        return "examples"
    return "text" if text_field in record else None


def kind_of_files(files: Sequence[SourceFile], config: PrepareConfig) -> Kind:
    """What files hold, by the settings or by the first records of each.

    Raises:
        ConfigError: some hold one kind and others another, or examples stand beside plain text.
    """
    found: dict[Kind, SourceFile] = {}
    kind: Kind
    if config.records != "auto":
        kind = config.records
    else:
        for file in files:
            if file.format == "json_lines":
                for here in _kinds_at_start(file, config.text_field):
                    found.setdefault(here, file)
        if "preference" in found and "examples" in found:
            raise ConfigError(
                f"records must be of one kind, and {found['preference'].path} holds preferences "
                f"(chosen, rejected), {found['examples'].path} examples; prepare them one by one, "
                "or set records to the kind that is meant"
            )
        kind = next((k for k in ("preference", "examples") if k in found), "text")
    if kind != "text":
        for file in files:
            if file.format != "json_lines":
                what = "examples" if kind == "examples" else "preferences"
                raise ConfigError(
                    f"{what} are JSON lines (.jsonl, .ndjson, .json), and {file.path} is not; "
                    "leave it out, or set records to text to have all files read as text"
                )
    return kind


def _kinds_at_start(file: SourceFile, text_field: str) -> set[Kind]:
    first = itertools.islice(records(file, on_bad=lambda error: None), _LOOK_AT)
    try:
        kinds = {kind_of_record(record.value, text_field) for record in first}
    except ValueError:  # of a damaged file, which whoever reads it whole will name
        return set()
    return {kind for kind in kinds if kind is not None}
