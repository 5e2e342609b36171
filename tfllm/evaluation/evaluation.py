"""What an evaluation found, whatever was measured."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfllm.evaluation.measured import Measured


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; a class of a kind of task adds what is its own."""

    task: str
    """its name"""

    def rows(self) -> dict[str, str]:
        """Name to value, as a table shows them."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """What is to be told besides."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what is undefined is null."""
        return _plain(dataclasses.asdict(self))


@dataclass(frozen=True)
class RecordEvaluation(Evaluation):
    """How good a model's answers to records are."""

    num_records: int
    num_errors: int
    """records that the model refused, which count as wrong"""
    measures: tuple[Measured, ...]
    notes: tuple[str, ...]
    """what is to be told: records that were passed over, labels that the model does not know"""
    seconds: float
    """that the answers took"""
    predictions: Path | None
    """the file of answers"""
    pictures: tuple[Path, ...]

    def rows(self) -> dict[str, str]:
        """The measures with their intervals."""
        rows = {f"records of {self.task}": f"{self.num_records:,}"}
        if self.num_errors:
            rows["refused, which counts as wrong"] = f"{self.num_errors:,}"
        for measure in self.measures:
            rows[measure.name] = measure.format() + (f"  ({measure.note})" if measure.note else "")
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
