"""How fast this machine multiplies matrices, and the precision that follows from it."""

from __future__ import annotations

import functools
import statistics
import time

import tensorflow as tf

_WORTH_IT = 1.3
"""how much faster bfloat16 must be to be chosen: it has 8 bits where float32 has 24"""


@functools.cache
def matmul_peak(dtype: str, size: int = 2048) -> float:
    """Measured FLOP/s of one product of two `[size, size]` matrices: the machine's practical peak.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        size: of the matrices.

    Returns:
        FLOP/s, the best of five runs. The result is kept for the process.
    """
    x = tf.cast(tf.random.stateless_normal([size, size], [0, 0]), dtype)

    @tf.function
    def product() -> tf.Tensor:
        # One number, so that waiting for the result copies nothing.
        return tf.reduce_sum(tf.matmul(x, x, transpose_b=True)[0])

    product().numpy()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product().numpy()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def choose_precision(precision: str) -> str:
    """ "auto" to "bfloat16" where products in it are clearly faster here, else "float32".

    TensorFlow multiplies bfloat16 fast on TPUs, newer GPUs and CPUs with AVX512_BF16 or AMX, and
    far slower than float32 elsewhere, so it is measured.
    """
    if precision != "auto":
        return precision
    faster = matmul_peak("bfloat16", 1024) > _WORTH_IT * matmul_peak("float32", 1024)
    return "bfloat16" if faster else "float32"


def dtype_policy(precision: str) -> str:
    """The Keras policy for training: products in `precision`, weights in float32."""
    return precision if precision == "float32" else f"mixed_{precision}"


def median_rate(counts: list[float], seconds: list[float]) -> float:
    """The median of counts per second; 0 without any."""
    return statistics.median(c / s for c, s in zip(counts, seconds, strict=True)) if counts else 0.0
