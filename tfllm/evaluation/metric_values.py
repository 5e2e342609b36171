"""Values of metrics with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tfllm.evaluation.bootstrap import confidence_interval
from tfllm.evaluation.metrics import Metric


@dataclass(frozen=True)
class MetricValue:
    """The value of a metric with its confidence interval."""

    name: str
    value: float
    low: float
    """lower end of the 95 % interval (bootstrap over the examples)"""
    high: float
    num_examples: int
    note: str = ""
    """details that the value depends on, such as the tokenizer"""
    higher_is_better: bool = True
    standard_error: float | None = None
    """standard error of a mean, as in lm-evaluation-harness; None for other metrics"""
    warning: str = ""
    """reason why the value may be misleading"""

    def format(self) -> str:
        """The value and its interval as text."""
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def metric_values(metrics: Iterable[Metric], *, resamples: int = 1000) -> list[MetricValue]:
    """Compute the value of each metric with its 95 % interval.

    Args:
        metrics: metrics with at least one example each.
        resamples: number of bootstrap resamples. Defaults to 1000.

    Raises:
        ValueError: there is no example.
    """
    found = []
    for metric in metrics:
        value, low, high = confidence_interval(metric, resamples=resamples)
        found.append(
            MetricValue(
                metric.name,
                value,
                low,
                high,
                metric.num_examples,
                metric.note,
                metric.higher_is_better,
                metric.standard_error,
                metric.warning,
            )
        )
    return found
