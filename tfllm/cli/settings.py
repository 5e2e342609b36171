"""Interpret the words of a command line: settings, columns, records, and texts among settings.

`pair` reads every `KEY=VALUE`: settings by name, `--columns`, the inputs of a task, and `/set` in a
chat. The flags are declared in `arguments.py`.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfllm.config import (
    ConfigError,
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    field_types,
    read_file,
    read_value,
    unknown_name,
)
from tfllm.config.data import check_encoding
from tfllm.config.generation import OLD_NAMES as OLD_OPTIONS
from tfllm.config.reading import renamed

SECTIONS: dict[str, type] = {
    "prepare": PrepareConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "generation": GenerationConfig,
}
"""Of a settings file. `model` may also name a `size`."""
OLD_NAMES: dict[str, dict[str, str]] = {"model": {"preset": "size"}, "generation": OLD_OPTIONS}
"""for each section, old names of settings to their present names"""
FLAG = "setting:"
"""prefix of the parser's destination of a setting's flag; SECTION.NAME follows"""


def names_of(section: str) -> list[str]:
    """The keys of a section."""
    return [*field_types(SECTIONS[section]), *(["size"] if section == "model" else [])]


def _has(section: str, name: str) -> bool:
    """Whether a section has a key, by its present or its old name."""
    return name in names_of(section) or name in OLD_NAMES.get(section, {})


def _present_names(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a section with their old names replaced by the present ones."""
    for old, new in OLD_NAMES.get(section, {}).items():
        values = renamed(values, old, new)
    return values


def pair(word: str, noun: str = "a setting", form: str = "KEY=VALUE") -> tuple[str, str]:
    """Split a word at its first =.

    Args:
        word: the word, such as "top_p=0.9".
        noun: what the word is, for the error.
        form: how the word must be written, for the error.

    Raises:
        ConfigError: there is no =, or nothing before it.
    """
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"{noun} is given as {form}; received {word!r}")
    return key, value


def settings(options: argparse.Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """The settings of each section.

    `KEY=VALUE` overrides the settings file, and flags override both.

    Raises:
        ConfigError: a section or key is unknown, or a value in the file has the wrong type.
    """
    given = vars(options)
    file = _file_sections(given["config"]) if given.get("config") else {}
    assigned: dict[str, dict[str, Any]] = {section: {} for section in sections}
    flags: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for word in (*given.get("positional_assignments", ()), *given.get("assignments", ())):
        key, value = pair(word)
        section, name = _place(key, sections)
        assigned[section][name] = value
    for key, value in given.items():
        if key.startswith(FLAG):
            section, _, name = key.removeprefix(FLAG).partition(".")
            flags[section][name] = value
    found = {
        section: {
            **file.get(section, {}),
            **_present_names(section, assigned[section]),
            **_present_names(section, flags[section]),
        }
        for section in sections
    }
    if columns := columns_of(options) if "prepare" in found else {}:
        found["prepare"]["columns"] = [f"{column}={name}" for column, name in columns.items()]
    return found


def _place(key: str, sections: Sequence[str]) -> tuple[str, str]:
    """Resolve a key, NAME or SECTION.NAME, to its section and name."""
    section, _, name = key.rpartition(".")
    if section and section not in sections:
        raise ConfigError(unknown_name("section", section, sections))
    among = [section] if section else list(sections)
    fitting = [s for s in among if _has(s, name)]
    if not fitting:
        raise ConfigError(unknown_name("setting", name, [n for s in among for n in names_of(s)]))
    return fitting[0], name


def columns_of(options: argparse.Namespace) -> dict[str, str]:
    """The columns that `--columns` maps to their names in the files.

    Raises:
        ConfigError: a word is not COLUMN=NAME, or is a setting.
    """
    found = {}
    for word in getattr(options, "columns", None) or ():
        column, name = pair(word, "a column", "COLUMN=NAME")
        if not name:
            raise ConfigError(
                f"a column is given as COLUMN=NAME; received {word!r}, in which NAME is missing"
            )
        if any(column in field_types(section) for section in SECTIONS.values()):
            takes_settings = getattr(options, "command", "") in ("train", "prepare")
            advice = f"write --set {word}" if takes_settings else "leave it out"
            raise ConfigError(f"{word!r} is a setting, not a column; {advice}")
        found[column] = name
    return found


def encoding_of(options: argparse.Namespace) -> str:
    """The encoding that `--encoding` names. Defaults to UTF-8.

    Raises:
        ConfigError: Python does not know the encoding.
    """
    encoding = getattr(options, "encoding", "utf-8")
    check_encoding(encoding)
    return encoding


def settings_among(words: Sequence[str], example: str) -> tuple[list[str], list[str]]:
    """Separate texts from the generation settings among them: `"Hi" top_p=0.9`.

    A word is a setting if the part before its first = is the name of a setting.

    Args:
        words: words of the command line that may be settings.
        example: the command up to `--`, for the error.

    Returns:
        The texts, and the settings as NAME=VALUE.

    Raises:
        ConfigError: a word looks like a misspelt setting.
    """
    names = [*names_of("generation"), *OLD_OPTIONS]
    texts, assignments = [], []
    for word in words:
        key, equals, value = word.partition("=")
        name = key.strip().removeprefix("generation.").replace("-", "_")
        if equals and name in names:
            assignments.append(f"{name}={value}")
            continue
        if equals and name.isidentifier() and difflib.get_close_matches(name, names, 1, 0.8):
            raise ConfigError(
                f"{unknown_name('setting', name, names)} If it is text, put it after --: "
                f"{example} -- {word!r}"
            )
        texts.append(word)
    return texts, assignments


def rows_of(words: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    """Group inputs given as NAME=VALUE into rows; a repeated name starts the next row.

    If there is only one input, its name may be left out.

    Raises:
        ConfigError: a word is not NAME=VALUE, or the rows have different inputs.
    """
    rows: list[dict[str, str]] = [{}]
    for word in words:
        name, equals, _ = word.partition("=")
        if len(names) == 1 and name != names[0] and not (equals and name.isidentifier()):
            word = f"{names[0]}={word}"
        name, value = pair(word, "an input", " ".join(f"{name}=VALUE" for name in names))
        if name in rows[-1]:
            rows.append({})
        rows[-1][name] = value
    for number, row in enumerate(rows, 1):
        if set(row) != set(rows[0]):
            raise ConfigError(
                f"all rows must have the same inputs ({', '.join(rows[0])}); row {number} has "
                f"{', '.join(row)}"
            )
    return rows


def record_of(words: Sequence[str], names: Sequence[str]) -> dict[str, str] | None:
    """The record given by words of the form NAME=VALUE; None if the words are paths.

    Raises:
        ConfigError: the name of an input is unknown, or inputs and paths are mixed.
    """
    sides = [word.partition("=") for word in words]
    known = [bool(equals) and key in names for key, equals, _ in sides]
    named = [bool(equals) and key.isidentifier() for key, equals, _ in sides]
    if all(known):
        return {key: value for key, _, value in sides}
    strange = [n for n in range(len(words)) if named[n] and not known[n]]
    if all(named):
        raise ConfigError(unknown_name("input", sides[strange[0]][0], names))
    for word in (words[n] for n in strange):
        if not Path(word).exists():
            raise ConfigError(
                f"{word!r} is neither an input ({', '.join(names)}) nor a file; the settings of "
                "predict are flags, such as --batch-size 8"
            )
    return None


def _file_sections(path: str) -> dict[str, dict[str, Any]]:
    """Read the sections of a settings file, and check its keys and the types of its values."""
    file = read_file(path)
    if not isinstance(file, dict):
        raise ConfigError(
            f"{path} must hold sections ({', '.join(SECTIONS)}) of settings; "
            f"received a {type(file).__name__}"
        )
    for section, values in file.items():
        if not isinstance(values, dict):
            homes = [s for s in SECTIONS if _has(s, section)]
            raise ConfigError(
                f"{path}: {section!r} is not in a section; the sections are "
                f"{', '.join(f'[{s}]' for s in SECTIONS)}"
                + (f"; it belongs in [{homes[0]}]" if homes else "")
            )
        if section not in SECTIONS:
            raise ConfigError(unknown_name("section", section, SECTIONS, path))
        where = f"{path}, section [{section}]"
        old = OLD_NAMES.get(section, {})
        types: dict[str, Any] = {**field_types(SECTIONS[section]), "size": str}
        for key in values:
            if not _has(section, key):
                raise ConfigError(unknown_name("setting", key, names_of(section), where))
        try:
            for key, value in values.items():
                read_value(key, value, types[old.get(key) or key])
            file[section] = _present_names(section, values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return file
