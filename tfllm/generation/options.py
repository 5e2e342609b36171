"""Generation options as a served model and its clients exchange them; this only needs NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.config import ConfigError, GenerationConfig, build, unknown_name
from tfllm.config.generation import NO_LIMIT, option_rows

STOP_SEPARATOR = "\x1f"
"""The separator of the stop strings of one row, U+001F."""

MOST_STOP_BYTES = 4096
"""Maximum number of bytes in the stop strings of one row; the regular expression of more gets slow,
and then fails."""

_NUMPY = {"int32": np.int32, "float32": np.float32, "string": np.object_}
OPTION_TYPES: dict[str, Any] = {
    name: _NUMPY[row.dtype] for name, row in option_rows().items() if row.dtype is not None
}
"""The generation options, each an input of shape [batch] of the signature `generate`."""


def stop_input(stop: Sequence[str]) -> str:
    """Join stop strings to the string that a row of the input `stop` takes.

    Raises:
        ConfigError: If a stop string contains the separator, or a lone surrogate.
    """
    for text in stop:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"a stop string must be valid Unicode; received {text!r}")
    if any(STOP_SEPARATOR in text for text in stop):
        raise ConfigError(f"a stop string must not contain U+001F; received {list(stop)!r}")
    return STOP_SEPARATOR.join(stop)


def read_options(
    options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> GenerationConfig:
    """Check options given by name; others have the value in `defaults`, or tfllm's default.

    Raises:
        ConfigError: If a name is unknown, or a value has the wrong type or is out of range.
    """
    for name in options:
        if name not in OPTION_TYPES:
            raise ConfigError(unknown_name("option", name, OPTION_TYPES))
    return build(GenerationConfig, {**(defaults or {}), **options})


def option_values(config: GenerationConfig, inputs: Container[str] | None = None) -> dict[str, Any]:
    """The values for one row of each option's input.

    Args:
        config: The options.
        inputs: Names of the inputs that a model has, which an earlier version may have exported
            with fewer options. Defaults to None, all of them.

    Raises:
        ConfigError: If an option that the model does not have would have an effect.
    """
    values = dataclasses.asdict(config)
    values["stop"] = stop_input(config.stop)
    rows, found = option_rows(), {}
    for name, kind in OPTION_TYPES.items():
        # No context and no vocabulary is larger.
        value = min(values[name], NO_LIMIT) if kind is np.int32 else values[name]
        if inputs is None or name in inputs:
            found[name] = value
        elif getattr(config, name) != rows[name].neutral:
            raise ConfigError(
                f"{name} must be {rows[name].neutral!r} for this model, which was exported without "
                f"that option; received {getattr(config, name)!r}. Export it again"
            )
    return found


def exported_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `option_values`, as input for `read_options`; other names are dropped."""
    options = {name: values[name] for name in OPTION_TYPES if name in values}
    if "stop" in options:
        options["stop"] = tuple(text for text in options["stop"].split(STOP_SEPARATOR) if text)
    return options
