"""Metrics of text embeddings: retrieval, and correlation of similarities with human judgements."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tfllm.evaluation.metrics import Metric, check_lengths, mean

_MOST_SCORES = 1 << 22
"""maximum number of query-document scores held at once; with their order they take 50 MB"""


def ranked(scores: np.ndarray, most: int | None = None) -> np.ndarray:
    """Rank the documents of each query, best first; ties keep the order of the documents.

    Args:
        scores: scores of documents, larger is better, float `[Q, D]`.
        most: number of documents to keep. Defaults to all.

    Returns:
        Indices of documents, int `[Q, most]`.
    """
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :most]


def recall_at(
    k: int, relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> Metric:
    """Recall@k: fraction of the relevant documents among the k best, averaged over queries.

    Args:
        k: number of best documents, at least 1.
        relevant: indices of the relevant documents of each query, at least one.
        rankings: indices of documents for each query, best first (`ranked`): at least k of them, or
            all documents.

    Raises:
        ValueError: a query has no relevant document, or k is below 1.
    """
    return recall_from_ranks(k, _ranks_in(relevant, rankings))


def mean_reciprocal_rank(
    relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> Metric:
    """Mean reciprocal rank (MRR) of the first relevant document, 0 where none is found.

    Args:
        relevant: indices of the relevant documents of each query, at least one.
        rankings: indices of documents for each query, best first (`ranked`).

    Raises:
        ValueError: a query has no relevant document.
    """
    return reciprocal_rank_from_ranks(_ranks_in(relevant, rankings))


def ranks_among(
    queries: np.ndarray, documents: np.ndarray, relevant: Sequence[Collection[int]]
) -> list[np.ndarray]:
    """Ranks of the relevant documents of each query, by the dot product of their vectors.

    The scores of only some queries are held at a time, so that memory only grows with the number of
    documents.

    Args:
        queries: vectors of queries, float `[Q, E]`.
        documents: vectors of documents, float `[D, E]`.
        relevant: indices of the relevant documents of each query.

    Returns:
        For each query the ranks of its relevant documents from 1, ascending, float64 `[R]`; ties
        keep the order of the documents.
    """
    check_lengths(relevant, queries)
    at_once = max(1, _MOST_SCORES // max(len(documents), 1))
    ranks = []
    for begin in range(0, len(queries), at_once):
        orders = ranked(queries[begin : begin + at_once] @ documents.T)
        for order, right in zip(orders, relevant[begin : begin + at_once], strict=True):
            ranks.append(np.flatnonzero(np.isin(order, list(right))) + 1.0)
    return ranks


def recall_from_ranks(k: int, ranks: Sequence[np.ndarray]) -> Metric:
    """`recall_at` from the ranks of the relevant documents.

    Args:
        k: number of best documents, at least 1.
        ranks: ranks of the relevant documents of each query, from 1; infinity if not found.

    Raises:
        ValueError: a query has no relevant document, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; received {k}")
    _check(ranks)
    return mean(f"recall@{k}", [float((given <= k).mean()) for given in ranks])


def reciprocal_rank_from_ranks(ranks: Sequence[np.ndarray]) -> Metric:
    """`mean_reciprocal_rank` from the ranks of the relevant documents.

    Args:
        ranks: ranks of the relevant documents of each query, from 1; infinity if not found.

    Raises:
        ValueError: a query has no relevant document.
    """
    _check(ranks)
    return mean("MRR", [float(1 / given.min()) for given in ranks])


def spearman(references: Sequence[float], predictions: Sequence[float]) -> Metric:
    """Spearman's rank correlation, -1 to 1; equal values have the mean of their ranks.

    It is 0 if all references or all predictions are equal.

    Args:
        references: similarity of each pair, such as the mean of human judgements.
        predictions: predicted similarity of each pair.
    """
    check_lengths(references, predictions)
    true, given = np.asarray(references, np.float64), np.asarray(predictions, np.float64)

    def of(indices: np.ndarray) -> float:
        first, second = _ranks(true[indices]), _ranks(given[indices])
        first, second = first - first.mean(), second - second.mean()
        size = np.sqrt((first**2).sum() * (second**2).sum())
        return float((first * second).sum() / size) if size else 0.0

    return Metric("Spearman", len(true), of)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float `[N]`; equal values have the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _ranks_in(
    relevant: Sequence[Collection[int]], rankings: Sequence[Sequence[int]] | np.ndarray
) -> list[np.ndarray]:
    """Ranks of the relevant documents of each query; infinity where they are not found."""
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
