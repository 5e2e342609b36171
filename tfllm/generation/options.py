"""The options of a generation as a served model and its clients exchange them, with NumPy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.config import ConfigError, GenerationConfig, build, unknown_name
from tfllm.config.generation import NO_LIMIT, option_rows

STOP_SEPARATOR = "\x1f"
"""between the stop strings of one row, U+001F"""

MOST_STOP_BYTES = 4096
"""in the stop strings of one row; the regular expression made of more gets slow, and then fails"""

_NUMPY = {"int32": np.int32, "float32": np.float32, "string": np.object_}
OPTION_TYPES: dict[str, Any] = {
    name: _NUMPY[row.dtype] for name, row in option_rows().items() if row.dtype is not None
}
"""the options of a generation, each an input of shape [batch] of the signature `generate`"""


def stop_input(stop: Sequence[str]) -> str:
    """Stop strings as the one string that a row of the input `stop` holds.

    Raises:
        ConfigError: a stop string has the separator in it, or a lone surrogate.
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
    """Options by name as checked settings; what is not named is as in `defaults`, or ours.

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of range.
    """
    for name in options:
        if name not in OPTION_TYPES:
            raise ConfigError(unknown_name("option", name, OPTION_TYPES))
    return build(GenerationConfig, {**(defaults or {}), **options})


def option_values(config: GenerationConfig) -> dict[str, Any]:
    """The values of one row of each option's input."""
    values = dataclasses.asdict(config)
    values["stop"] = stop_input(config.stop)
    return {
        # No context and no vocabulary is larger.
        name: min(values[name], NO_LIMIT) if kind is np.int32 else values[name]
        for name, kind in OPTION_TYPES.items()
    }


def exported_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `option_values`: what `read_options` takes; other names are left out."""
    options = {name: values[name] for name in OPTION_TYPES if name in values}
    if "stop" in options:
        options["stop"] = tuple(text for text in options["stop"].split(STOP_SEPARATOR) if text)
    return options
