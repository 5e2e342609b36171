"""Checksums that identify a model's weights, so that an adapter is not used with others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

_SAMPLED = 4096
"""Number of values of each weight that are used: training changes all of them."""


def fingerprint(model: Any) -> dict[str, str | None]:
    """Compute checksums of a Keras model's own weights, without adapters.

    The values are rounded to bfloat16 first, so that a model has the same checksums in float32 and
    in bfloat16. A sample of values represents each weight.

    Returns:
        "norms", the checksum of the weights of the normalization layers, and "matrices", that of
        all others, or None if some are stored as integers, whose values are not those of the model.
    """
    norms, matrices = hashlib.sha256(), hashlib.sha256()
    whole = True
    weights = getattr(model, "own_weights", None)
    if weights is None:
        weights = [v for v in model.weights if "seed_generator" not in v.path]
    for variable in sorted(weights, key=lambda v: v.path):
        path = variable.path.partition("/")[2]  # the first part numbers the models of a process
        value = tf.convert_to_tensor(variable.value)
        if not value.dtype.is_floating:
            whole = False
            continue
        digest = norms if "norm/" in path else matrices
        step = max(1, int(np.prod(variable.shape)) // _SAMPLED)
        sample = tf.cast(tf.reshape(value, [-1])[::step][:_SAMPLED], tf.bfloat16)
        digest.update(f"{path} {list(variable.shape)}\n".encode())
        digest.update(sample.numpy().view(np.uint8).tobytes())
    return {"norms": norms.hexdigest(), "matrices": matrices.hexdigest() if whole else None}


def same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints may belong to the same weights."""
    names = ["norms"]
    if one.get("matrices") and other.get("matrices"):
        names.append("matrices")
    return all(one.get(name) == other.get(name) for name in names)
