"""Values of a config.json, read as what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_origin

from tfllm.config import ConfigError, build, field_types, read_value

T = TypeVar("T")


def read_key(values: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """A key's value, which must be of the type; the default where it is missing or null.

    Raises:
        ConfigError: it is of another.
    """
    if values.get(key) is None:
        return default
    if isinstance(values[key], str):  # `read_value` reads text, for the command line
        raise ConfigError(f"{where}: {key} must not be text; received {values[key]!r}")
    try:
        return read_value(key, values[key], kind)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def built(cls: type[T], settings: Mapping[str, Any], where: str) -> T:
    """A configuration of the class, of values that a config.json gave.

    Raises:
        ConfigError: a value of another type, or values that do not fit together.
    """
    types = field_types(cls)  # type: ignore[arg-type]
    for name, value in settings.items():  # `build` reads text, for the command line
        if isinstance(value, str) and get_origin(types[name]) is not Literal:
            raise ConfigError(f"{where}: {name} must not be text; received {value!r}")
    try:
        return build(cls, settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def unsupported(key: str, received: Any, supported: tuple[Any, ...], where: str) -> ConfigError:
    """The error for a key that changes what the model computes, and is not followed."""
    return ConfigError(
        f"{where}: {key} is supported with {' or '.join(map(repr, supported))} alone; "
        f"received {received!r}. Another value would change what the model computes, so the model "
        "is not loaded"
    )


def one_dropout(
    values: Mapping[str, Any], keys: tuple[str, ...], default: float, where: str
) -> float:
    """The rate that all these keys give; 0 where they give different ones.

    There is one dropout for the whole model, and it acts in training alone: so a model whose rates
    differ is read for all else (`unlike_rates`, `TrainingStep.untrainable`).
    """
    rates = [read_key(values, key, float, default, where) for key in keys]
    return rates[0] if all(rate == rates[0] for rate in rates) else 0.0


def unlike_rates(
    values: Mapping[str, Any], keys: tuple[str, ...], default: float
) -> dict[str, float]:
    """The dropouts of these keys where they differ."""
    rates = {key: default if values.get(key) is None else values[key] for key in keys}
    return rates if len(set(rates.values())) > 1 else {}
