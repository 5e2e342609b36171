"""A figure of merit over examples, which can be asked of any choice of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """What a set of predictions is worth, as a function of which examples count.

    `of` takes example numbers, repeated ones included, which is what the bootstrap resamples. Most
    measures depend on their examples by sums alone (a mean, counts of n-grams, hits and misses of
    each label); those are made by `of_sums`, and resampled by a product of matrices.
    """

    name: str
    num_examples: int
    of: Callable[[np.ndarray], float]
    """the value over the examples of int indices `[N]`"""
    note: str = ""
    """what else the value depends on: a signature, the bins, the rule for ties"""
    higher_is_better: bool = True
    statistics: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """float `[num_examples, K]`, where the value is a function of their sums"""
    combine: Callable[[np.ndarray], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    """float `[R, K]`, sums over examples, to values `[R]`"""
    warning: str = ""
    """why the value may not be what it seems, such as references in which a tokenizer finds none"""
    values: np.ndarray | None = dataclasses.field(default=None, repr=False)
    """float `[num_examples]`, whose mean the value is; None of what is no mean"""

    @property
    def standard_error(self) -> float | None:
        """Of a mean over two examples and more: their standard deviation (n - 1) over sqrt(n)."""
        if self.values is None or self.num_examples < 2:
            return None
        return float(self.values.std(ddof=1) / math.sqrt(self.num_examples))

    @property
    def value(self) -> float:
        """Over all examples.

        Raises:
            ValueError: there is none.
        """
        self.check()
        return float(self.of(np.arange(self.num_examples)))

    def check(self) -> None:
        """Raise ValueError where there is no example."""
        if self.num_examples < 1:
            raise ValueError(f"{self.name} must be measured on at least one example; received 0")

    def minus(self, other: Measure) -> Measure:
        """How much better than another, on the same examples.

        Resampling it takes the same examples for both, which is a paired comparison: its interval
        is narrower than the two that stand alone.

        Raises:
            ValueError: the numbers of examples differ.
        """
        if self.num_examples != other.num_examples:
            raise ValueError(
                f"two measures must be of the same examples to be compared; {self.name} has "
                f"{self.num_examples}, {other.name} {other.num_examples}"
            )
        return Measure(
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
) -> Measure:
    """A measure that is a function of sums over examples.

    Args:
        name: of the measure.
        statistics: `[N, K]` of each example.
        combine: `[R, K]` sums to `[R]` values; a division by 0 gives NaN: there it is undefined.
        note: as `Measure.note`.
        higher_is_better: as `Measure.higher_is_better`.
    """
    rows = np.asarray(statistics, np.float64)
    rows = rows if rows.ndim == 2 else rows.reshape(0, 1)  # of no example

    def values(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return combine(sums)

    return Measure(
        name,
        len(rows),
        lambda indices: float(values(rows[indices].sum(0, keepdims=True))[0]),
        note,
        higher_is_better,
        rows,
        values,
    )


def mean(name: str, values: Iterable[float], *, note: str = "") -> Measure:
    """The mean of a value that each example has.

    Args:
        name: of the measure.
        values: N of them.
        note: as `Measure.note`.
    """
    given = np.asarray(list(values), np.float64)
    measure = of_sums(
        name, np.stack([given, np.ones_like(given)], 1), lambda s: s[:, 0] / s[:, 1], note=note
    )
    return dataclasses.replace(measure, values=given)


def check_lengths(references: Sized, predictions: Sized) -> None:
    """Raise ValueError where there is not one prediction for each reference."""
    if len(references) != len(predictions):
        raise ValueError(
            f"there must be one prediction for each reference ({len(references)}); "
            f"received {len(predictions)}"
        )


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, 0 where the denominator is 0."""
    shape = np.broadcast(numerator, denominator).shape
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator != 0)
