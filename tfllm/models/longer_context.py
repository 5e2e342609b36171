"""Room for longer rows in a new model than its size has."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, TypeVar

from tfllm.config import ConfigError

_Config = TypeVar("_Config", bound=Any)


class LongerContextWarning(UserWarning):
    """A new model gets a longer context than its size has."""


def with_context(config: _Config, sequence_length: int) -> _Config:
    """The architecture of a new model, with a context of at least `sequence_length`.

    A longer context than the size's own is warned of. Learned positions are weights, a vector for
    each place: there the context must be asked for.

    Args:
        config: with `max_sequence_length`, and `positions` where these are not always learned.
        sequence_length: tokens in a row.

    Raises:
        ConfigError: the positions are learned, and fewer.
    """
    context = config.max_sequence_length
    if sequence_length <= context:
        return config
    if getattr(config, "positions", "learned") == "learned":
        raise ConfigError(
            "sequence_length must be at most the context of a model whose positions are learned "
            f"({context:,} tokens); received {sequence_length:,}. Shorten the rows, or give the "
            f"model that context by name: max_sequence_length={sequence_length}"
        )
    warnings.warn(
        f"sequence_length={sequence_length:,} is longer than the model's context of {context:,} "
        f"tokens, which is raised to it; max_sequence_length={sequence_length} says the same "
        "without this warning",
        LongerContextWarning,
        stacklevel=2,
    )
    return dataclasses.replace(config, max_sequence_length=sequence_length)
