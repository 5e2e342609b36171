"""Results of evaluations."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfllm.evaluation.metric_values import MetricValue


@dataclass(frozen=True)
class Evaluation:
    """Base class of the results of `evaluate`, which subclasses extend for a kind of task.

    Examples:
        >>> result = RecordEvaluation("tagging", 20, 0, (), ("1 record skipped",), 4.0, None, ())
        >>> isinstance(result, Evaluation), result.task, result.remarks()
        (True, 'tagging', ['1 record skipped'])
    """

    task: str
    """name of the task"""

    def rows(self) -> dict[str, str]:
        """Names and formatted values, as in a table."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Further remarks on the result."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary that JSON can hold; undefined values are None."""
        return _plain(dataclasses.asdict(self))


@dataclass(frozen=True)
class RecordEvaluation(Evaluation):
    """Metrics of a model's answers to records.

    Examples:
        >>> from tfllm.evaluation.metric_values import MetricValue
        >>> accuracy = MetricValue("accuracy", 0.9, low=0.75, high=1.0, num_examples=20)
        >>> result = RecordEvaluation("classification", 20, 0, (accuracy,), (), 4.0, None, ())
        >>> result.rows()
        {'records of classification': '20', 'accuracy': '0.9 [0.75, 1]', 'records/s': '5.0'}
    """

    num_records: int
    num_errors: int
    """number of records that the model refused, which count as wrong"""
    metrics: tuple[MetricValue, ...]
    notes: tuple[str, ...]
    """notes, such as on records that were skipped or labels that the model does not know"""
    seconds: float
    """time that the predictions took"""
    predictions: Path | None
    """file with the predictions"""
    pictures: tuple[Path, ...]

    def rows(self) -> dict[str, str]:
        """The metrics with their intervals."""
        rows = {f"records of {self.task}": f"{self.num_records:,}"}
        if self.num_errors:
            rows["refused, which counts as wrong"] = f"{self.num_errors:,}"
        for metric in self.metrics:
            rows[metric.name] = metric.format() + (f"  ({metric.note})" if metric.note else "")
        rows["records/s"] = f"{self.num_records / max(self.seconds, 1e-9):,.1f}"
        if self.predictions is not None:
            rows["answers"] = str(self.predictions)
        if self.pictures:
            rows["pictures"] = ", ".join(map(str, self.pictures))
        return rows

    def remarks(self) -> list[str]:
        """The notes."""
        return list(self.notes)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
