"""How fast this machine multiplies matrices, and the precision that follows from it."""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import tensorflow as tf

from tfllm.layers.quantized import int8_policy

_WORTH_IT = 1.3
"""how much faster bfloat16 must be to be chosen: it has 8 bits where float32 has 24"""


@functools.cache
def matmul_peak(dtype: str, size: int | None = None) -> float:
    """Measured FLOP/s of one product of two `[size, size]` matrices: the machine's practical peak.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        size: of the matrices; default: 2048, on an accelerator 8192.

    Returns:
        FLOP/s, the best of five runs. The result is kept for the process.
    """
    accelerated = bool(tf.config.list_logical_devices("GPU"))
    # One product of an accelerator would be over before the next call has begun.
    repeats = 10 if accelerated else 1
    size = size or (8192 if accelerated else 2048)
    x = tf.cast(tf.random.stateless_normal([size, size], [0, 0]) / size**0.5, dtype)

    @tf.function
    def product() -> tf.Tensor:
        y = x
        for _ in range(repeats):
            y = tf.matmul(y, x, transpose_b=True)
        return tf.reduce_sum(y[0])  # one number, so that waiting for the result copies nothing

    product().numpy()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        times.append(time.perf_counter() - start)
    return repeats * 2 * size**3 / min(times)


def choose_precision(precision: str) -> str:
    """ "auto" to "bfloat16" where products in it are clearly faster here, else "float32".

    TensorFlow multiplies bfloat16 fast on TPUs, newer GPUs and CPUs with AVX512_BF16 or AMX, and
    far slower than float32 elsewhere, so it is measured.
    """
    if precision != "auto":
        return precision
    size = None if tf.config.list_logical_devices("GPU") else 1024
    faster = matmul_peak("bfloat16", size) > _WORTH_IT * matmul_peak("float32", size)
    return "bfloat16" if faster else "float32"


def dtype_policy(precision: str) -> str:
    """The Keras policy for training: products in `precision`, weights in float32."""
    return precision if precision == "float32" else f"mixed_{precision}"


def keras_policy(dtype: Any) -> Any:
    """A dtype as Keras takes it.

    Args:
        dtype: what Keras knows; or "int8_float32", "int8_bfloat16", for matrices of integers that
            are used in the other type; or "int8" for the one of the two that is faster here.
    """
    if dtype == "int8":
        dtype = f"int8_{choose_precision('auto')}"
    return int8_policy(dtype)


def median_rate(counts: list[float], seconds: list[float]) -> float:
    """The median of counts per second; 0 without any."""
    return statistics.median(c / s for c, s in zip(counts, seconds, strict=True)) if counts else 0.0
