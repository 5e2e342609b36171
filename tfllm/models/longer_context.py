"""A longer context for a new model than its size has by default."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, TypeVar

from tfllm.config import ConfigError

_Config = TypeVar("_Config", bound=Any)


class LongerContextWarning(UserWarning):
    """A new model gets a longer context than its size has by default."""


def with_context(config: _Config, sequence_length: int) -> _Config:
    """The architecture of a new model, with a context of at least `sequence_length`.

    A warning is issued if the context is raised. Learned positions are weights, one vector per
    position: for them the context must be set explicitly.

    Args:
        config: architecture with `max_sequence_length`, and with `positions` if these are not
            always learned.
        sequence_length: tokens in a row.

    Raises:
        ConfigError: the positions are learned, and there are fewer than `sequence_length`.
    """
    context = config.max_sequence_length
    if sequence_length <= context:
        return config
    if getattr(config, "positions", "learned") == "learned":
        raise ConfigError(
            "sequence_length must be at most the context of a model whose positions are learned "
            f"({context:,} tokens); received {sequence_length:,}. Shorten the rows, or set the "
            f"model's context: max_sequence_length={sequence_length}"
        )
    warnings.warn(
        f"sequence_length={sequence_length:,} is longer than the model's context of {context:,} "
        f"tokens; the context is raised. Set max_sequence_length={sequence_length} to do so "
        "without this warning",
        LongerContextWarning,
        stacklevel=2,
    )
    return dataclasses.replace(config, max_sequence_length=sequence_length)
