"""The pretrained model that a run begins with: that it is still the same, and what is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras

from tfllm.config import ConfigError
from tfllm.pretrained.fingerprint import same_weights


def check_fingerprint(path: str, now: dict[str, Any], then: dict[str, Any]) -> None:
    """Refuse a base whose weights are not those that a run began with.

    Raises:
        ConfigError: they are not.
    """
    if not same_weights(now, then):
        raise ConfigError(
            f"the run began with other weights than those of {path}: it was changed since, or is "
            "another model. Give the one that the run began with, or start a new run"
        )


def num_trained(model: keras.Model) -> int:
    """How many of the weights' numbers are trained."""
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)


def base_path(base: str) -> str:
    """The path or name of a pretrained model as a run remembers it, from wherever it is read."""
    here = Path(base)
    return str(here.resolve()) if here.exists() else base
