"""Settings on the command line: a flag for each field, KEY=VALUE, and a file of sections."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

from tfllm.config import (
    ConfigError,
    GenerationConfig,
    ModelConfig,
    PrepareConfig,
    TrainingConfig,
    field_docs,
    field_types,
    read_file,
    read_value,
    unknown_name,
)

SECTIONS: dict[str, type] = {
    "prepare": PrepareConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "generation": GenerationConfig,
}
"""Of a settings file. `model` may also name a `preset`."""


def add_settings(parser: argparse.ArgumentParser, *sections: str) -> None:
    """A flag for each setting of some sections, with the field's own words as help."""
    parser.add_argument("--config", help="a TOML or JSON file of settings")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        dest="assignments",
        help="settings by name, such as learning_rate=3e-4 or model.num_layers=8",
    )
    for section in sections:
        # A model's own defaults are not shown: the preset's values stand in their place.
        of_preset = section == "model"
        group = parser.add_argument_group("model, over the preset" if of_preset else "settings")
        add_fields(group, section, tuple(field_types(SECTIONS[section])), defaults=not of_preset)


def add_fields(group: Any, section: str, names: Sequence[str], *, defaults: bool = True) -> None:
    """A flag for each of some settings of a section."""
    for field in dataclasses.fields(SECTIONS[section]):
        if field.name not in names:
            continue
        text = field_docs(SECTIONS[section])[field.name]
        if defaults and field.default is not None and field.default != ():
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            text += f" (default: {shown})"
        options: dict[str, Any] = {"metavar": field.name.upper(), "help": text.replace("%", "%%")}
        kind = field_types(SECTIONS[section])[field.name]
        if typing.get_origin(kind) is Literal:
            options["metavar"] = f"{{{','.join(typing.get_args(kind))}}}"
        if kind is bool:
            options = {"help": options["help"], "action": argparse.BooleanOptionalAction}
        elif field.name in ("columns", "ignore_keys"):
            metavar = "COLUMN=NAME" if field.name == "columns" else "KEY"
            options |= {"nargs": "+", "action": "extend", "metavar": metavar}
        elif field.name == "stop":
            options["action"] = "append"
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(flag, dest=f"setting:{section}.{field.name}", **options)


def settings(options: argparse.Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """Each section's settings: the file's; over them KEY=VALUE's; over both the flags'.

    Raises:
        ConfigError: an unknown section or key, or a value in the file of another type.
    """
    given = vars(options)
    file = _sections_of(given["config"]) if given.get("config") else {}
    found = {section: dict(file.get(section, {})) for section in sections}
    assignments = [*given.get("positional_assignments", []), *given.get("assignments", [])]
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"a setting is given as KEY=VALUE; received {assignment!r}")
        section, _, name = key.rpartition(".")
        if section and section not in found:
            raise ConfigError(unknown_name("section", section, found))
        name_of = {s: _names(s) for s in found}
        fitting = [section] if section else [s for s in found if name in name_of[s]]
        if not fitting or name not in name_of[fitting[0]]:
            known = [n for s in ([section] if section else found) for n in name_of[s]]
            raise ConfigError(unknown_name("setting", name, known))
        found[fitting[0]][name] = value
    for key, value in given.items():
        if key.startswith("setting:"):
            section, _, name = key.removeprefix("setting:").partition(".")
            found[section][name] = value
    return found


def _sections_of(path: str) -> dict[str, dict[str, Any]]:
    """A settings file's sections, all of whose keys are known and of the right type."""
    file = read_file(path)
    if not isinstance(file, dict):
        raise ConfigError(
            f"{path} must hold sections ({', '.join(SECTIONS)}) of settings; "
            f"received a {type(file).__name__}"
        )
    for section, values in file.items():
        if not isinstance(values, dict):
            at_home = [s for s in SECTIONS if section in _names(s)]
            raise ConfigError(
                f"{path}: {section!r} stands in no section; sections are "
                f"{', '.join(f'[{s}]' for s in SECTIONS)}"
                + (f"; it belongs into [{at_home[0]}]" if at_home else "")
            )
        if section not in SECTIONS:
            raise ConfigError(unknown_name("section", section, SECTIONS, path))
        types: dict[str, Any] = {**field_types(SECTIONS[section]), "preset": str}
        for key, value in values.items():
            if key not in _names(section):
                where = f"{path}, section [{section}]"
                raise ConfigError(unknown_name("setting", key, _names(section), where))
            try:
                read_value(key, value, types[key])
            except ConfigError as error:
                raise ConfigError(f"{path}, section [{section}]: {error}") from None
    return file


def _names(section: str) -> list[str]:
    return [*field_types(SECTIONS[section]), *(["preset"] if section == "model" else [])]
