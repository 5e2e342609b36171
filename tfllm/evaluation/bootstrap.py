"""Bootstrap confidence intervals of metrics."""

from __future__ import annotations

import math

import numpy as np

from tfllm.evaluation.metrics import Metric

_MOST_DRAWS = 2**23
"""maximum number of example indices drawn at once, which take 64 MB"""


def confidence_interval(
    metric: Metric, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The value of a metric and its bootstrap percentile interval (Efron, 1979).

    The interval reflects the variation between samples of examples, not between training runs. It
    is too narrow for a handful of examples, or a value at the end of its range.

    Args:
        metric: the metric, with at least one example.
        level: confidence level. Defaults to 0.95.
        resamples: number of bootstrap resamples. Defaults to 1000.
        seed: random seed of the resampling. Defaults to 0.

    Returns:
        The value, and the lower and upper end of the interval; NaN where the metric is undefined.

    Raises:
        ValueError: there is no example, or `level` or `resamples` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95; received {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1; received {resamples}")
    values = resampled(metric, resamples=resamples, seed=seed)
    values = values[~np.isnan(values)]  # the metric may be undefined on a resample
    if not len(values):
        return metric.value, math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return metric.value, float(low), float(high)


def resampled(metric: Metric, *, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Values of a metric on examples drawn with replacement, float `[resamples]`.

    Raises:
        ValueError: there is no example.
    """
    metric.check()
    random = np.random.default_rng(seed)
    num = metric.num_examples
    at_once = max(1, _MOST_DRAWS // num)
    values = []
    for begin in range(0, resamples, at_once):
        drawn = random.integers(0, num, (min(at_once, resamples - begin), num))
        if metric.statistics is None or metric.combine is None:
            values.append(np.asarray([metric.of(row) for row in drawn], np.float64))
            continue
        rows = np.arange(len(drawn))[:, None]
        counts = np.bincount((rows * num + drawn).ravel(), minlength=drawn.size)
        sums = counts.reshape(drawn.shape) @ metric.statistics
        values.append(np.asarray(metric.combine(sums), np.float64))
    return np.concatenate(values)
