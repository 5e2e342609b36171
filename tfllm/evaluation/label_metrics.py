"""Metrics of labels: of one label per text, with its probability, or of labelled spans."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np

from tfllm.evaluation.metrics import Metric, check_lengths, divide, mean, of_sums


def accuracy(references: Sequence[Hashable], predictions: Sequence[Hashable]) -> Metric:
    """Accuracy: the fraction of correct predictions.

    Args:
        references: true labels.
        predictions: predicted labels; None for no prediction, which counts as wrong.
    """
    check_lengths(references, predictions)
    return mean("accuracy", [r == p for r, p in zip(references, predictions, strict=True)])


def macro_f1(references: Sequence[Hashable], predictions: Sequence[Hashable]) -> Metric:
    """Macro F1: the mean over labels of the harmonic mean of precision and recall.

    As in scikit-learn, only labels that occur in the references or predictions count: a label that
    is missing in a resample does not count as 0 there.

    Args:
        references: true labels.
        predictions: predicted labels; None for no prediction, which counts as a miss.
    """
    check_lengths(references, predictions)
    labels = _labels(references, predictions)
    true, given = _indices(references, labels), _indices(predictions, labels)
    every = np.arange(len(labels))
    hits = (true[:, None] == every) & (given[:, None] == every)
    # Twice the hits divided by references plus predictions equals 2PR / (P + R).
    sizes = (true[:, None] == every).astype(np.float64) + (given[:, None] == every)
    num = len(labels)

    def combine(sums: np.ndarray) -> np.ndarray:
        f1 = divide(2 * sums[:, :num], sums[:, num:])
        return divide(f1.sum(1), (sums[:, num:] > 0).sum(1))

    return of_sums("macro F1", np.concatenate([hits, sizes], 1), combine)


def calibration_error(
    references: Sequence[Hashable],
    predictions: Sequence[Hashable],
    confidences: Sequence[float],
    *,
    num_bins: int = 15,
) -> Metric:
    """Expected calibration error, with bins of equal width (Guo et al., 2017).

    Args:
        references: true labels.
        predictions: predicted labels; None for no prediction, which counts as wrong.
        confidences: probability of each prediction, 0 to 1.
        num_bins: number of bins, which exclude their lower and include their upper end. Defaults to
            15.

    Raises:
        ValueError: a confidence is not in [0, 1].
    """
    check_lengths(references, predictions)
    check_lengths(references, confidences)
    correct = [r == p for r, p in zip(references, predictions, strict=True)]
    given = np.asarray(confidences, np.float64)
    wrong = given[~((given >= 0) & (given <= 1 + 1e-6))]  # a softmax in float32 may round up
    if len(wrong):
        raise ValueError(
            f"confidences must be probabilities, 0 to 1; received {wrong[:3].tolist()}"
        )
    bins = np.clip(np.ceil(given * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.zeros((len(given), num_bins))
    gaps[np.arange(len(given)), bins] = given - np.asarray(correct, np.float64)
    statistics = np.concatenate([gaps, np.ones((len(given), 1))], 1)
    return of_sums(
        "expected calibration error",
        statistics,
        lambda sums: np.abs(sums[:, :-1]).sum(1) / sums[:, -1],
        note=f"{num_bins} bins of equal width",
        higher_is_better=False,
    )


def span_f1(
    references: Sequence[Collection[Hashable]], predictions: Sequence[Collection[Hashable]]
) -> Metric:
    """F1 over the spans of all texts; a span is correct if its ends and its label are.

    Args:
        references: true spans of each text, such as (begin, end, label), without repetition.
        predictions: predicted spans of each text.
    """
    return _spans(
        "span F1", references, predictions, lambda s: divide(2 * s[:, 0], s[:, 1] + s[:, 2])
    )


def span_precision(
    references: Sequence[Collection[Hashable]], predictions: Sequence[Collection[Hashable]]
) -> Metric:
    """Precision: the fraction of predicted spans that are correct; 0 if none are predicted."""
    return _spans("span precision", references, predictions, lambda s: divide(s[:, 0], s[:, 1]))


def span_recall(
    references: Sequence[Collection[Hashable]], predictions: Sequence[Collection[Hashable]]
) -> Metric:
    """Recall: the fraction of true spans that are predicted; 0 if there are none."""
    return _spans("span recall", references, predictions, lambda s: divide(s[:, 0], s[:, 2]))


def confusion_matrix(
    references: Sequence[Hashable], predictions: Sequence[Hashable], labels: Sequence[Hashable]
) -> np.ndarray:
    """Confusion matrix: how often each label was predicted for each true label.

    Args:
        references: true labels, all in `labels`.
        predictions: predicted labels; those not in `labels`, such as None, are left out.
        labels: labels in the order of the matrix.

    Returns:
        Counts, int64 `[L, L]`: rows are true labels, columns predicted ones.

    Raises:
        ValueError: a true label is not in `labels`.
    """
    check_lengths(references, predictions)
    unknown = sorted({str(r) for r in references if r not in set(labels)})
    if unknown:
        raise ValueError(
            f"references must be among the labels {list(labels)}; received {unknown[:5]}"
        )
    true, given = _indices(references, labels), _indices(predictions, labels)
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (true[given >= 0], given[given >= 0]), 1)
    return counts


def _spans(name: str, references: Any, predictions: Any, combine: Any) -> Metric:
    check_lengths(references, predictions)
    pairs = [(set(r), set(p)) for r, p in zip(references, predictions, strict=True)]
    rows = [(len(r & p), len(p), len(r)) for r, p in pairs]
    return of_sums(name, np.asarray(rows, np.float64).reshape(-1, 3), combine)


def _labels(*of: Sequence[Hashable]) -> list[Hashable]:
    """The different labels in the order of their first occurrence."""
    return list(dict.fromkeys(label for labels in of for label in labels if label is not None))


def _indices(given: Sequence[Hashable], labels: Sequence[Hashable]) -> np.ndarray:
    """Indices in `labels`, int64 `[N]`; -1 for other values."""
    places = {label: i for i, label in enumerate(labels)}
    return np.asarray([places.get(label, -1) for label in given], np.int64)
