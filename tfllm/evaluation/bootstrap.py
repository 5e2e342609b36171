"""How far a measured value could be off by the choice of examples."""

from __future__ import annotations

import math

import numpy as np

from tfllm.evaluation.measures import Measure

_MOST_DRAWS = 2**23
"""example numbers drawn at once, 64 MB"""


def confidence_interval(
    measure: Measure, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The value and its bootstrap percentile interval (Efron, 1979).

    It tells what another choice of as many examples would give, not another training run. With a
    handful of examples, or a value at the edge of what is possible, it is too narrow.

    Args:
        measure: at least one example.
        level: how often an interval made so holds the value of the whole population.
        resamples: more of them make the ends steadier.
        seed: the same seed gives the same interval.

    Returns:
        value, low end, high end; NaN where the measure is undefined.

    Raises:
        ValueError: there is no example, or `level` or `resamples` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95; received {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; received {resamples}")
    values = resampled(measure, resamples=resamples, seed=seed)
    values = values[~np.isnan(values)]  # a resample may lack what the measure divides by
    if not len(values):
        return measure.value, math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return measure.value, float(low), float(high)


def resampled(measure: Measure, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """The measure on examples drawn with replacement, float `[resamples]`.

    Raises:
        ValueError: there is no example.
    """
    measure.check()
    random = np.random.default_rng(seed)
    num = measure.num_examples
    at_once = max(1, _MOST_DRAWS // num)
    values = []
    for begin in range(0, resamples, at_once):
        drawn = random.integers(0, num, (min(at_once, resamples - begin), num))
        if measure.statistics is None or measure.combine is None:
            values.append(np.asarray([measure.of(row) for row in drawn], np.float64))
            continue
        rows = np.arange(len(drawn))[:, None]
        counts = np.bincount((rows * num + drawn).ravel(), minlength=drawn.size)
        sums = counts.reshape(drawn.shape) @ measure.statistics
        values.append(np.asarray(measure.combine(sums), np.float64))
    return np.concatenate(values)
