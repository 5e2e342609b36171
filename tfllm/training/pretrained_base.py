"""The pretrained model that a run starts from: check its identity, count its trained weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras

from tfllm.config import ConfigError
from tfllm.pretrained.fingerprint import same_weights


def check_fingerprint(path: str, now: dict[str, Any], then: dict[str, Any]) -> None:
    """Refuse a base model whose weights are not those that a run started from.

    Args:
        path: path or name of the base model.
        now: fingerprint of its weights.
        then: fingerprint of the weights that the run started from.

    Raises:
        ConfigError: the fingerprints differ.
    """
    if not same_weights(now, then):
        raise ConfigError(
            f"the run started from other weights than those of {path}: it was changed since, or is "
            "another model. Give the model that the run started from, or start a new run"
        )


def num_trained(model: keras.Model) -> int:
    """Number of trained parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)


def base_path(base: str) -> str:
    """The absolute path, or the name, of a pretrained model, as recorded by a run."""
    here = Path(base)
    return str(here.resolve()) if here.exists() else base
