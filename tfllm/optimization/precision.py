"""The measured speed of matrix products on this machine, and the precision it suggests."""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import tensorflow as tf

from tfllm.layers.quantized import int8_policy

_WORTH_IT = 1.3
"""speed-up that bfloat16 must have to be chosen: it has 8 significant bits, and float32 has 24"""


@functools.cache
def matmul_peak(dtype: str, size: int | None = None) -> float:
    """Measured FLOP/s of a product of two `[size, size]` matrices: the machine's practical peak.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        size: size of the matrices. Defaults to 2048, or 8192 on an accelerator.

    Returns:
        FLOP/s, the best of five runs. The result is cached within the process.
    """
    accelerated = bool(tf.config.list_logical_devices("GPU"))
    # On an accelerator a single product would finish before the next call starts.
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
    """Resolve "auto" to "bfloat16" if its products are clearly faster here, else to "float32".

    TensorFlow multiplies bfloat16 fast on TPUs, newer GPUs and CPUs with AVX512_BF16 or AMX, and
    far slower than float32 elsewhere, so the speed is measured. Other values are returned as given.
    """
    if precision != "auto":
        return precision
    size = None if tf.config.list_logical_devices("GPU") else 1024
    faster = matmul_peak("bfloat16", size) > _WORTH_IT * matmul_peak("float32", size)
    return "bfloat16" if faster else "float32"


def dtype_policy(precision: str) -> str:
    """The name of Keras' dtype policy for training: products in `precision`, weights in float32."""
    return precision if precision == "float32" else f"mixed_{precision}"


def keras_policy(dtype: Any) -> Any:
    """The dtype policy for a dtype.

    Args:
        dtype: a dtype or policy of Keras; or "int8_float32" or "int8_bfloat16", for matrices that
            are stored as integers and used in the float type; or "int8", for the faster of the two
            on this machine.
    """
    if dtype == "int8":
        dtype = f"int8_{choose_precision('auto')}"
    return int8_policy(dtype)


def median_rate(counts: list[float], seconds: list[float]) -> float:
    """The median of counts per second; 0 if there are none."""
    return statistics.median(c / s for c, s in zip(counts, seconds, strict=True)) if counts else 0.0
