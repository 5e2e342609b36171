"""Read settings by name, from strings and from files, and their help from the source code."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from tfllm.config.rules import ConfigError

T = TypeVar("T")


def build(cls: type[T], settings: Mapping[str, Any], *, where: str = "") -> T:
    """An instance of dataclass `cls` from named settings.

    Args:
        cls: a dataclass of settings, such as `ModelConfig`.
        settings: field name to value; strings are read as the field's type.
        where: source of the settings, to be named in errors.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    known = field_types(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(unknown_name("setting", key, known, where))
        values[key] = read_value(key, value, known[key])
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{cls.__name__} needs {', '.join(missing)}; received {sorted(values)}")
    return cls(**values)


def renamed(settings: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """Settings with an old name replaced by the present one.

    Args:
        settings: values by name.
        old: old name.
        new: present name, used in the result.

    Raises:
        ConfigError: both are given.
    """
    if old in settings and new in settings:
        raise ConfigError(
            f"{old} is the old name of {new}, and only one of them may be given; received "
            f"{new}={settings[new]!r} and {old}={settings[old]!r}; leave out {old}"
        )
    return {new if name == old else name: value for name, value in settings.items()}


def read_fields(config: Any) -> None:
    """Convert each field of a dataclass to its declared type, such as 4.0 to 4.

    Called first in `__post_init__`, so that `ModelConfig(**values)` reports a wrong type just as
    `build(ModelConfig, values)` does.

    Raises:
        ConfigError: a value has the wrong type.
    """
    cls: Any = type(config)
    for name, kind in field_types(cls).items():
        object.__setattr__(config, name, read_value(name, getattr(config, name), kind))


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The error message for a name that is not in `known`, with the nearest one that is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}{f' in {where}' if where else ''}{hint}"


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Maps each field name to its resolved type, in order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Maps each field name to the string beneath the field in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[node.target.id] = " ".join(str(after.value.value).split())
    return docs


def read_value(name: str, value: Any, kind: Any) -> Any:
    """Convert `value` to the type `kind`; a string (from the command line) is parsed.

    Args:
        name: name of the setting, for the error.
        value: the value to convert.
        kind: the type: int, float, bool, str, a Literal, a tuple of one of them, a dataclass, or
            one of these or None.

    Raises:
        ConfigError: the value has the wrong type.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        options = typing.get_args(kind)
        if type(None) in options and (value is None or str(value).lower() in ("none", "null", "")):
            return None
        (kind,) = [o for o in options if o is not type(None)]
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, 1, 0.5)
            raise ConfigError(
                f"{name} must be one of {', '.join(choices)}; received {value!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        return value
    if origin is tuple:
        return _read_list(name, value, typing.get_args(kind)[0])
    if dataclasses.is_dataclass(kind):
        return _read_nested(name, value, kind)
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                str(value).lower() if isinstance(value, str) else "?"
            ]
        if isinstance(value, bool):
            raise ValueError
        if kind is int:
            if isinstance(value, str):
                value = value.replace("_", "")
                return int(value) if value.lstrip("+-").isdigit() else _whole(float(value))
            return _whole(value)
        if kind is float:
            return float(value)
        if kind is str and isinstance(value, str):
            return value
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    noun = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]
    raise ConfigError(f"{name} must be {noun}; received {value!r}")


def _read_list(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    """A list of strings or of whole numbers; the latter also as one comma-separated string."""
    items = value
    if isinstance(value, str):
        items = [value] if kind is str else value.split(",")
    try:
        if not isinstance(items, list | tuple):
            raise ConfigError
        if kind is str and not all(isinstance(item, str) for item in items):
            raise ConfigError
        return tuple(read_value(name, item, kind) for item in items)
    except ConfigError:
        noun = {int: "whole numbers", str: "strings"}[kind]
        raise ConfigError(f"{name} must be a list of {noun}; received {value!r}") from None


def _read_nested(name: str, value: Any, kind: Any) -> Any:
    """A nested dataclass, given as an instance, a mapping of its fields, or a JSON object."""
    if isinstance(value, kind):
        return value
    given = value
    if isinstance(value, str):
        try:
            given = json.loads(value)
        except ValueError:
            given = None
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name} must be a table of {', '.join(field_types(kind))} "
            f"(on the command line: a JSON object); received {value!r}"
        )
    return build(kind, given, where=name)


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError
    return int(value)


def read_file(path: str | Path) -> dict[str, Any]:
    """Read the settings in a TOML or JSON file, as nested dictionaries.

    Raises:
        ConfigError: the file cannot be read, or is neither valid TOML nor valid JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {error}") from None
    try:
        if path.suffix == ".json":
            return json.loads(text)
        try:
            import tomllib
        except ModuleNotFoundError:  # Python 3.10
            import tomli as tomllib  # type: ignore[no-redef]
        return tomllib.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid {path.suffix.lstrip('.') or 'TOML'}: {error}"
        ) from None


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass instance as a dictionary that JSON can hold."""
    return dataclasses.asdict(config)
