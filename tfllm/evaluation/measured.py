"""Measures as numbers, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tfllm.evaluation.bootstrap import confidence_interval
from tfllm.evaluation.measures import Measure


@dataclass(frozen=True)
class Measured:
    """What a measure of a set of predictions is."""

    name: str
    value: float
    low: float
    """the lower end of the 95 % interval (bootstrap over the examples)"""
    high: float
    num_examples: int
    note: str = ""
    """what else the value depends on"""
    higher_is_better: bool = True
    standard_error: float | None = None
    """of a mean, as lm-evaluation-harness gives it; None of other measures"""
    warning: str = ""
    """why the value may not be what it seems"""

    def format(self) -> str:
        """The value with its interval."""
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def measured(measures: Iterable[Measure], *, resamples: int = 1000) -> list[Measured]:
    """The value of each measure, with its 95 % interval.

    Args:
        measures: at least one example each.
        resamples: of the bootstrap.

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
