"""Metrics over examples, which can be computed on any resample of the examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """A metric of a set of predictions, as a function of the examples that count.

    `of` takes indices of examples, which may repeat, as the bootstrap needs. Most metrics depend
    only on sums over their examples (a mean, counts of n-grams, hits and misses of each label);
    `of_sums` creates those, which are resampled by a matrix product.
    """

    name: str
    num_examples: int
    of: Callable[[np.ndarray], float]
    """the value over the examples with the given indices, int `[N]`"""
    note: str = ""
    """details that the value depends on: a signature, the bins, the treatment of ties"""
    higher_is_better: bool = True
    statistics: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """float `[num_examples, K]`, if the value is a function of their sums over examples"""
    combine: Callable[[np.ndarray], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    """function from sums over examples, float `[R, K]`, to values `[R]`"""
    warning: str = ""
    """reason why the value may be misleading, such as references without any token"""
    values: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """float `[num_examples]`, if the value is their mean; otherwise None"""

    @property
    def standard_error(self) -> float | None:
        """Standard error of a mean of at least two examples, otherwise None."""
        if self.values is None or self.num_examples < 2:
            return None
        return float(self.values.std(ddof=1) / math.sqrt(self.num_examples))

    @property
    def value(self) -> float:
        """The value over all examples.

        Raises:
            ValueError: there is no example.
        """
        self.check()
        return float(self.of(np.arange(self.num_examples)))

    def check(self) -> None:
        """Raise a ValueError if there is no example."""
        if self.num_examples < 1:
            raise ValueError(f"{self.name} must be measured on at least one example; received 0")

    def minus(self, other: Metric) -> Metric:
        """The difference from another metric on the same examples.

        Both are resampled together, which is a paired comparison: its interval is narrower than
        separate intervals suggest.

        Raises:
            ValueError: the numbers of examples differ.
        """
        if self.num_examples != other.num_examples:
            raise ValueError(
                f"two metrics must have the same examples to be compared; {self.name} has "
                f"{self.num_examples}, {other.name} {other.num_examples}"
            )
        return Metric(
            f"{self.name} - {other.name}",
            self.num_examples,
            lambda indices: self.of(indices) - other.of(indices),
            higher_is_better=self.higher_is_better,
        )


def of_sums(
    name: str,
    statistics: np.ndarray | Sequence[Sequence[float]],
    combine: Callable[[np.ndarray], np.ndarray],
    *,
    note: str = "",
    higher_is_better: bool = True,
) -> Metric:
    """Create a metric that is a function of sums over examples.

    Args:
        name: name of the metric.
        statistics: statistics of each example, `[N, K]`.
        combine: function from sums, `[R, K]`, to values, `[R]`; NaN, as from a division by 0, means
            undefined.
        note: as in `Metric.note`.
        higher_is_better: as in `Metric.higher_is_better`.
    """
    rows = np.asarray(statistics, np.float64)
    rows = rows if rows.ndim == 2 else rows.reshape(0, 1)  # there is no example

    def values(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return combine(sums)

    return Metric(
        name,
        len(rows),
        lambda indices: float(values(rows[indices].sum(0, keepdims=True))[0]),
        note,
        higher_is_better,
        rows,
        values,
    )


def mean(name: str, values: Iterable[float], *, note: str = "") -> Metric:
    """Create a metric that is the mean of a value per example.

    Args:
        name: name of the metric.
        values: value of each example.
        note: as in `Metric.note`.
    """
    given = np.asarray(list(values), np.float64)
    metric = of_sums(
        name, np.stack([given, np.ones_like(given)], 1), lambda s: s[:, 0] / s[:, 1], note=note
    )
    return dataclasses.replace(metric, values=given)


def check_lengths(references: Sized, predictions: Sized) -> None:
    """Raise a ValueError unless there is one prediction for each reference."""
    if len(references) != len(predictions):
        raise ValueError(
            f"there must be one prediction for each reference ({len(references)}); "
            f"received {len(predictions)}"
        )


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, 0 where the denominator is 0."""
    shape = np.broadcast(numerator, denominator).shape
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)
