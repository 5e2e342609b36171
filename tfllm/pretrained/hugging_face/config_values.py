"""Read values of a config.json, and check their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_origin

from tfllm.config import ConfigError, build, field_types, read_value

T = TypeVar("T")


def read_key(values: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """Read a key's value, which must have the given type; the default if it is missing or null.

    Raises:
        ConfigError: If it has another type.
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
    """Build a configuration of the class from the values of a config.json.

    Raises:
        ConfigError: If a value has the wrong type, or values contradict each other.
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
    """The error for an unsupported value of a key that changes what the model computes."""
    return ConfigError(
        f"{where}: {key} is only supported with {' or '.join(map(repr, supported))}; "
        f"received {received!r}. Another value would change what the model computes, so the model "
        "is not loaded"
    )


def one_dropout(
    values: Mapping[str, Any], keys: tuple[str, ...], default: float, where: str
) -> float:
    """The dropout rate of all these keys; 0 if they differ.

    There is one dropout rate for the whole model, and it is only used in training: so a model with
    different rates is loaded for everything else (`unlike_rates`, `TrainingStep.untrainable`).
    """
    rates = [read_key(values, key, float, default, where) for key in keys]
    return rates[0] if all(rate == rates[0] for rate in rates) else 0.0


def unlike_rates(
    values: Mapping[str, Any], keys: tuple[str, ...], default: float
) -> dict[str, float]:
    """The dropout rates of these keys, if they differ."""
    rates = {key: default if values.get(key) is None else values[key] for key in keys}
    return rates if len(set(rates.values())) > 1 else {}
