"""Labels that a model was not trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from tfllm.data.preparing.record_preparation import UnknownInTraining

_MOST_TOLD = 10


def label_place(label: str, labels: Sequence[str]) -> int:
    """The place of a label among those that were trained on.

    Raises:
        UnknownInTraining: it was not.
    """
    if label not in labels:
        told = ", ".join(map(repr, labels[:_MOST_TOLD]))
        more = ", ..." if len(labels) > _MOST_TOLD else ""
        raise UnknownInTraining(
            f"the label {label!r} is none of those in the training records ({told}{more})"
        )
    return labels.index(label)


def unknown_labels(
    labels: Sequence[str], known: Collection[str], what: str, outcome: str
) -> list[str]:
    """What is to be told of labels that a model is measured on; nothing where it knows them all.

    Args:
        labels: of all that it is measured on.
        known: those that it was trained with.
        what: has the labels: "records".
        outcome: what the model makes of an unknown one.
    """
    unknown = Counter(label for label in labels if label not in known)
    if not unknown:
        return []
    told = ", ".join(map(repr, list(unknown)[:_MOST_TOLD]))
    return [
        f"{sum(unknown.values()):,} of {len(labels):,} {what} have labels that the model was not "
        f"trained with ({told}): {outcome}"
    ]
