"""Measures of vectors of texts: is the right one found, do likenesses agree with people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tfllm.evaluation.measures import Measure, check_lengths, mean

_MOST_SCORES = 1 << 22
"""of queries with documents that are held at once; with their order 50 MB"""


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
    return recall_from_ranks(k, _ranks_in(relevant, rankings))


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
    return reciprocal_rank_from_ranks(_ranks_in(relevant, rankings))


def ranks_among(
    queries: np.ndarray, documents: np.ndarray, relevant: Sequence[Collection[int]]
) -> list[np.ndarray]:
    """Where each query finds its relevant documents, by the product of their vectors.

    Scores are held of some queries at a time, so that the memory grows with the documents alone.

    Args:
        queries: float `[Q, E]`.
        documents: float `[D, E]`.
        relevant: of each query, the numbers of the documents that it should find.

    Returns:
        of each query float64 `[R]`, ascending: the ranks of its documents from 1; among equals the
        earlier one comes first.
    """
    check_lengths(relevant, queries)
    at_once = max(1, _MOST_SCORES // max(len(documents), 1))
    ranks = []
    for begin in range(0, len(queries), at_once):
        orders = ranked(queries[begin : begin + at_once] @ documents.T)
        for order, right in zip(orders, relevant[begin : begin + at_once], strict=True):
            ranks.append(np.flatnonzero(np.isin(order, list(right))) + 1.0)
    return ranks


def recall_from_ranks(k: int, ranks: Sequence[np.ndarray]) -> Measure:
    """`recall_at` of the ranks of each query's relevant documents, from 1.

    Args:
        k: at least 1.
        ranks: of each query one for each document that it should find, infinity if it does not.

    Raises:
        ValueError: a query has no relevant document, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; received {k}")
    _check(ranks)
    return mean(f"recall@{k}", [float((given <= k).mean()) for given in ranks])


def reciprocal_rank_from_ranks(ranks: Sequence[np.ndarray]) -> Measure:
    """`mean_reciprocal_rank` of the ranks of each query's relevant documents, from 1.

    Args:
        ranks: of each query one for each document that it should find, infinity if it does not.

    Raises:
        ValueError: a query has no relevant document.
    """
    _check(ranks)
    return mean("MRR", [float(1 / given.min()) for given in ranks])


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


def _ranks_in(
    relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> list[np.ndarray]:
    """Of each query the ranks of its relevant documents, infinity where they are not found."""
    check_lengths(relevant, list(rankings))
    ranks = []
    for right, found in zip(relevant, rankings, strict=True):
        places: dict[int, int] = {}
        for rank, document in enumerate(found, 1):
            places.setdefault(int(document), rank)
        ranks.append(np.array([places.get(d, np.inf) for d in sorted(set(right))], np.float64))
    return ranks


def _check(ranks: Sequence[np.ndarray]) -> None:
    for number, given in enumerate(ranks, 1):
        if not len(given):
            raise ValueError(
                f"every query must have a relevant document; query {number} has none: leave it out"
            )
