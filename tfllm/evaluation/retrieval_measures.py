"""Measures of vectors of texts: is the right one found, do likenesses agree with people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tfllm.evaluation.measures import Measure, check_lengths, mean


def ranked(scores: np.ndarray, most: int | None = None) -> np.ndarray:
    """The documents of each query, the best first; among equals the earlier one.

    Args:
        scores: float `[Q, D]`, larger for a better fit.
        most: keep so many; default: all.

    Returns:
        int `[Q, most]`, numbers of documents.
    """
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :most]


def recall_at(
    k: int, relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> Measure:
    """The share of a query's relevant documents that are among its k best; the mean over queries.

    Args:
        k: at least 1.
        relevant: of each query, the numbers of the documents that it should find, at least one.
        rankings: of each query, numbers of documents, the best first (`ranked`): k of them or more,
            or all there are.

    Raises:
        ValueError: a query has no relevant document, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; received {k}")
    _check(relevant, rankings)
    return mean(f"recall@{k}", [
        len(set(right) & {int(d) for d in found[:k]}) / len(set(right))
        for right, found in zip(relevant, rankings, strict=True)
    ])  # fmt: skip


def mean_reciprocal_rank(
    relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> Measure:
    """One over the rank of the first relevant document, 0 where none is found; the mean over
    queries.

    Args:
        relevant: of each query, the numbers of the documents that it should find, at least one.
        rankings: of each query, numbers of documents, the best first (`ranked`).

    Raises:
        ValueError: a query has no relevant document.
    """
    _check(relevant, rankings)

    def reciprocal(right: Collection[int], found: Sequence[int]) -> float:
        wanted = set(right)
        return next((1 / rank for rank, d in enumerate(found, 1) if int(d) in wanted), 0.0)

    return mean("MRR", [reciprocal(r, f) for r, f in zip(relevant, rankings, strict=True)])


def spearman(references: Sequence[float], predictions: Sequence[float]) -> Measure:
    """The correlation of ranks, -1 to 1; equal values share the mean of their ranks.

    0 where all references or all predictions are equal: then there is no order to agree with.

    Args:
        references: a likeness of each pair, such as people's mean.
        predictions: as many.
    """
    check_lengths(references, predictions)
    true, given = np.asarray(references, np.float64), np.asarray(predictions, np.float64)

    def of(indices: np.ndarray) -> float:
        first, second = _ranks(true[indices]), _ranks(given[indices])
        first, second = first - first.mean(), second - second.mean()
        size = np.sqrt((first**2).sum() * (second**2).sum())
        return float((first * second).sum() / size) if size else 0.0

    return Measure("Spearman", len(true), of)


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1, the mean of their places for equal values, float `[N]`."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _check(relevant: Sequence[Collection[int]], rankings: Sequence[object] | np.ndarray) -> None:
    check_lengths(relevant, list(rankings))
    for number, right in enumerate(relevant, 1):
        if not len(right):
            raise ValueError(
                f"every query must have a relevant document; query {number} has none: leave it out"
            )
