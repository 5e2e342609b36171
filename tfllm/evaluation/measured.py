"""Values of metrics with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tfllm.evaluation.bootstrap import confidence_interval
from tfllm.evaluation.measures import Measure


@dataclass(frozen=True)
class Measured:
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


def measured(measures: Iterable[Measure], *, resamples: int = 1000) -> list[Measured]:
    """Compute the value of each metric with its 95 % interval.

    Args:
        measures: metrics with at least one example each.
        resamples: number of bootstrap resamples. Defaults to 1000.

    Raises:
        ValueError: there is no example.
    """
    found = []
    for measure in measures:
        value, low, high = confidence_interval(measure, resamples=resamples)
        found.append(
            Measured(
                measure.name,
                value,
                low,
                high,
                measure.num_examples,
                measure.note,
                measure.higher_is_better,
                measure.standard_error,
                measure.warning,
            )
        )
    return found
