"""Labels that a model was not trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from tfllm.data.preparing.record_preparation import UnknownInTraining

_MOST_LISTED = 10


def label_index(label: str, labels: Sequence[str]) -> int:
    """The index of a label among those of the training records.

    Raises:
        UnknownInTraining: the label is not among them.
    """
    if label not in labels:
        known = ", ".join(map(repr, labels[:_MOST_LISTED]))
        more = ", ..." if len(labels) > _MOST_LISTED else ""
        raise UnknownInTraining(
            f"the label {label!r} is not among those of the training records ({known}{more})"
        )
    return labels.index(label)


def unknown_labels(
    labels: Sequence[str], known: Collection[str], what: str, outcome: str
) -> list[str]:
    """A remark on labels in an evaluation that a model was not trained with; empty without any.

    Args:
        labels: labels in the evaluation.
        known: labels that the model was trained with.
        what: noun for the labelled objects, such as "records".
        outcome: consequence of an unknown label.
    """
    unknown = Counter(label for label in labels if label not in known)
    if not unknown:
        return []
    listed = ", ".join(map(repr, list(unknown)[:_MOST_LISTED]))
    return [
        f"{sum(unknown.values()):,} of {len(labels):,} {what} have labels that the model was not "
        f"trained with ({listed}): {outcome}"
    ]
