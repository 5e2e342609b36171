"""How much rounding may change a computed value: bounds that follow from the computation.

The unit roundoff u of a dtype is half the distance from 1 to the next number. Rounding errors are
nearly independent, so that the error of n additions grows as sqrt(n) u, not as n u (Higham & Mary,
"A new approach to probabilistic rounding error analysis", 2019). The order of the additions depends
on the processor: oneDNN and Eigen use different kernels for AVX2, AVX512 and AMX, and for one row
and several. `make test-processors` runs the tests that use these bounds on imitated processors.

There are three bounds; the first suffices if no step amplifies its input's error:

- `rounding`: from the dtype, the number of additions on the longest way from the inputs to a value,
  and the largest value on it.
- `weight_rounding`: for a whole model, whose attention and norms may amplify an error. The result
  of a stable computation is the exact result for slightly different weights (Wilkinson), so the
  bound is measured: how much the outputs change if each weight changes by one unit in the last
  place.
- `input_rounding`: the same for a function of a few arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""the largest relative error of one rounding"""
DEVIATIONS = 6
"""a bound in standard deviations: of 100,000 values that are compared none should be outside"""
SIDES = 2
"""what is compared with was rounded, too, in an order of its own"""
TRIALS = 8
"""how often weights are moved; the deviation is then known to a quarter"""


def rounding(additions: float, largest: Any = 1.0, dtype: str = "float32") -> float:
    """The most by which two computations of a value may differ.

    One rounding is off by at most u, evenly distributed: its deviation is u / sqrt(3). A product
    and its addition both round, so that n of them deviate by u sqrt(2 n / 3).

    Args:
        additions: on the longest way from the inputs to the value: the lengths of the sums
            that follow each other, such as E + D + S + E of attention.
        largest: the largest value on the way, or values, of which the largest counts; 1 for a
            relative bound.
        dtype: in which it is computed.
    """
    deviation = UNIT_ROUNDOFF[dtype] * math.sqrt(2 * additions / 3)
    return SIDES * DEVIATIONS * deviation * float(np.max(np.abs(np.asarray(largest, np.float64))))


def additions_of(config: Any, time: int) -> int:
    """On the longest way through a decoder or encoder, to its logits.

    Each block has five sums, one behind the other: the projection of what comes in, the scores, the
    mix of the values, the output projection, and the two of the feed-forward part; its norms are
    sums over the width, too.
    """
    width = config.embedding_dim
    head = getattr(config, "head_dim", None) or width // config.num_heads
    hidden = getattr(config, "feed_forward_dim", None) or 4 * width
    block = 2 * width + head + time + width + 2 * width + hidden
    return config.num_layers * block + 2 * width


def additions_of_sum(terms: float, additions: float) -> float:
    """Of a sum of terms of one sign and about one size, such as a batch's losses.

    As many additions of `rounding`, relative to the sum, as its error amounts to. The terms' own
    errors, of `additions` each, are independent: their squares add up to a `terms`-th of one. What
    is added up to is on its way, in the mean of squares, a third of the whole, and an addition has
    no product that is rounded, too, so that one counts a sixth.
    """
    return additions / terms + terms / 6


def weight_rounding(model: Any, run: Any, dtype: str = "float32") -> Any:
    """Bounds for what `run()` computes with `model`, one for each vector of the last axis.

    A vector has one bound, since an error that reaches a position's state shows in all its logits.

    Args:
        model: whose weights are float32.
        run: gives an array, or arrays in a dictionary.
        dtype: in which the model that is compared multiplies. Here it is float32, and the bound is
            that of float32 times as much as `dtype` rounds more coarsely.

    Returns:
        SIDES * DEVIATIONS standard deviations of each vector when each weight moves by 2 u up or
        down, shaped as the output but for the last axis, which is 1.
    """
    random = np.random.default_rng(0)
    weights = [w for w in model.weights if np.issubdtype(w.numpy().dtype, np.floating)]
    kept = [w.numpy() for w in weights]

    def moved() -> Any:
        for weight, value in zip(weights, kept, strict=True):
            weight.assign(_moved(value, random, "float32").astype("float32"))
        return run()

    try:
        bounds = _bounds(run(), moved)
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.assign(value)
    coarser = UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"]
    return tf.nest.map_structure(lambda bound: coarser * bound, bounds)


def input_rounding(run: Any, *inputs: Any, dtype: str = "float32") -> Any:
    """Bounds for what `run(*inputs)` computes in `dtype`, one for each vector of the last axis.

    Args:
        run: gives an array, or arrays in a tuple or dictionary, and computes in float64 here.
        inputs: arrays that a rounding may be taken to have changed.
        dtype: of the computation that is compared.

    Returns:
        SIDES * DEVIATIONS standard deviations of each vector when each number of the inputs moves
        by 2 u of `dtype` up or down, shaped as the output but for the last axis, which is 1.
    """
    random = np.random.default_rng(0)
    exact = [_float64(value) for value in inputs]
    return _bounds(run(*exact), lambda: run(*(_moved(value, random, dtype) for value in exact)))


def assert_within(given: Any, expected: Any, bound: Any, message: str = "") -> None:
    """That no value is off by more than its bound, which broadcasts."""
    given, expected = _float64(given), _float64(expected)
    assert expected.shape in (given.shape, ()), (given.shape, expected.shape)
    off = np.abs(given - expected)
    outside = ~(off <= bound)
    worst = np.max(off / np.maximum(bound, np.finfo(np.float64).tiny), initial=0.0)
    assert not outside.any(), (
        f"{message} {outside.sum()} of {off.size} values are off by more than rounding explains, "
        f"by {off[outside].max():.3g} at most; the worst is {worst:.3g} times its bound"
    )


def assert_rounded(
    given: Any, expected: Any, additions: int, dtype: str = "float32", message: str = ""
) -> None:
    """That values differ by no more than `rounding` of so many additions of values as large."""
    assert_within(given, expected, rounding(additions, expected, dtype), message)


def about(expected: Any, additions: int, dtype: str = "float32") -> Any:
    """A number, or one that differs from it by no more than `rounding`."""
    return pytest.approx(expected, rel=rounding(additions, dtype=dtype), abs=0)


def in_double(expected: Any, additions: float = 10_000, enlarged: float = 100.0) -> Any:
    """A number, or numbers, that Python or NumPy computes in float64, on any processor alike.

    Args:
        additions: at most, on the longest way.
        enlarged: by how much a later step may enlarge their rounding, as exp does by its argument.
    """
    largest = rounding(additions, enlarged, "float64")
    return pytest.approx(expected, rel=largest, abs=largest)


def _moved(values: np.ndarray, random: np.random.Generator, dtype: str) -> np.ndarray:
    return values * (1 + 2 * UNIT_ROUNDOFF[dtype] * random.choice([-1, 1], size=values.shape))


def _bounds(exact: Any, moved: Any) -> Any:
    """What TRIALS calls of `moved` deviate from `exact`, SIDES * DEVIATIONS times."""

    def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        square = (a - b) ** 2
        return square.mean(-1, keepdims=True) if square.ndim else square

    before = tf.nest.map_structure(_float64, exact)
    total = tf.nest.map_structure(lambda values: 0 * squares(values, values), before)
    for _ in range(TRIALS):
        after = tf.nest.map_structure(_float64, moved())
        total = tf.nest.map_structure(
            lambda total, a, b: total + squares(a, b) / TRIALS, total, after, before
        )
    return tf.nest.map_structure(lambda square: SIDES * DEVIATIONS * np.sqrt(square), total)


def _float64(values: Any) -> np.ndarray:
    if isinstance(values, (float, list, tuple)):  # which TensorFlow would take for float32
        values = np.asarray(values, np.float64)
    return np.asarray(tf.cast(values, tf.float64))
