"""The measured speed of matrix products on this machine, and the precision it suggests."""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import tensorflow as tf

from tfllm.layers.integer_product import has_integer_kernel
from tfllm.layers.quantized import ONEDNN, int8_policy

INT8_KERNELS = ("auto", "portable", "onednn")
"""how matrices of integers are multiplied: auto: with oneDNN's kernel for integers where there is
one, else portable, as floats"""

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
        dtype: a dtype or policy of Keras; or the name of an `Int8Policy`; or "int8" for the fastest
            of those on this machine, "int8_portable" for the fastest that multiplies floats, and
            "int8_onednn" for the fastest that multiplies integers if there are few rows.

    Raises:
        ValueError: "int8_onednn", and TensorFlow has no kernel for products of integers here.
    """
    if dtype in ("int8", *(f"int8_{kernels}" for kernels in INT8_KERNELS)):
        kernels = dtype.removeprefix("int8").removeprefix("_") or "auto"
        dtype = f"int8_{choose_precision('auto')}{ONEDNN if has_int8_kernels(kernels) else ''}"
    return int8_policy(dtype)


def with_kernels(dtype: str, int8_kernels: str) -> str:
    """The dtype for `keras_policy` with the given kernels of int8.

    Raises:
        ValueError: kernels are chosen for a dtype other than int8, or are not available.
    """
    if dtype == "int8":
        has_int8_kernels(int8_kernels)
    elif int8_kernels != "auto":
        raise ValueError(
            "int8_kernels is for dtype='int8'; received "
            f"int8_kernels={int8_kernels!r}, dtype={dtype!r}"
        )
    return dtype if int8_kernels == "auto" else f"int8_{int8_kernels}"


def has_int8_kernels(kernels: str) -> bool:
    """Whether products of few rows with matrices of integers are products of integers.

    Args:
        kernels: one of `INT8_KERNELS`.

    Raises:
        ValueError: "onednn", and TensorFlow here has no such kernel; or another word.
    """
    if kernels not in INT8_KERNELS:
        raise ValueError(
            f"int8_kernels must be one of {', '.join(INT8_KERNELS)}; received {kernels!r}"
        )
    if kernels == "onednn" and not has_integer_kernel():
        raise ValueError(
            "int8_kernels='onednn' needs a TensorFlow for CPUs that is built with oneDNN (x86, "
            "without a visible GPU), and this one is not; use 'portable'"
        )
    return kernels != "portable" and has_integer_kernel()


def median_rate(counts: list[float], seconds: list[float]) -> float:
    """The median of counts per second; 0 if there are none."""
    return statistics.median(c / s for c, s in zip(counts, seconds, strict=True)) if counts else 0.0
