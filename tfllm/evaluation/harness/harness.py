"""Shared parts of the harnesses: the interfaces of models, and the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tfllm.data.reading.table_records import Column, Record, Source, read_table
from tfllm.evaluation.metric_values import MetricValue, metric_values
from tfllm.evaluation.metrics import Metric
from tfllm.files import atomic_file


class GeneratesText(Protocol):
    """A `TextGeneration`, or the `Client` of a served one."""

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Continuations of a list of texts; options are fields of `GenerationConfig`."""


class ScoresText(Protocol):
    """A `TextGeneration`, or the `Client` of a served one."""

    def score(self, texts: Any) -> Any:
        """Scores of a list of texts: dictionaries with `log_prob` and `num_tokens`."""


@dataclass(frozen=True)
class HarnessResult:
    """The result of a harness.

    Examples:
        >>> from tfllm.evaluation.metrics import mean
        >>> result = HarnessResult("exact_match", [mean("exact_match", [1, 0, 1, 1])], [])
        >>> result.metric_values()[0].value
        0.75
    """

    harness: str
    metrics: list[Metric]
    predictions: list[dict[str, Any]]
    """for each record its content, the model's answer, and whether that is correct"""
    notes: tuple[str, ...] = ()
    """notes on the metrics, such as that contexts were truncated"""

    def metric_values(self) -> list[MetricValue]:
        """The values of the metrics with their intervals."""
        return metric_values(self.metrics)

    def save(self, path: str | Path) -> Path:
        """Write the predictions, a JSON object per line; the file is written atomically."""
        path = Path(path)
        with atomic_file(path) as file:
            for prediction in self.predictions:
                file.write(json.dumps(prediction, ensure_ascii=False).encode() + b"\n")
        return path


def read_records(
    data: Source | Sequence[Mapping[str, Any]],
    columns: Mapping[str, Column],
    limit: int = 0,
    *,
    empty_inputs: bool = False,
) -> list[Record]:
    """Read records from files, or check given records.

    Args:
        data: files as for `read_table`, or records whose keys are the names of the columns.
        columns: columns of a record.
        limit: maximum number of records; 0: all.
        empty_inputs: as in `read_table`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or there is no record.
    """
    if limit < 0:
        raise ValueError(f"limit must be at least 0 (0: all records); received {limit}")
    if isinstance(data, list | tuple) and all(isinstance(record, Mapping) for record in data):
        records = [Record(record, f"record {i}") for i, record in enumerate(data, 1)]
        for record in records:
            missing = [n for n, column in columns.items() if column.required and n not in record]
            if missing:
                raise ValueError(f"{record.where} must have {missing}; it has {list(record)}")
        if not records:
            raise ValueError("there must be at least one record; received none")
    else:
        records = read_table(cast(Source, data), columns, empty_inputs=empty_inputs).records
    return records[: limit or None]


def in_batches(
    texts: Sequence[Any], answer: Any, batch_size: int, *, size: Callable[[Any], int] = len
) -> list[Any]:
    """Answers to texts, computed in batches of texts of similar length.

    The longest texts come first, so that a lack of memory shows at once.

    Args:
        texts: texts, or other objects that have a size.
        answer: function from a list of texts to a list of answers.
        batch_size: maximum number of texts in a batch.
        size: size of a text. Defaults to its length.

    Returns:
        The answers, in the order of the texts.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received {batch_size}")
    order = sorted(range(len(texts)), key=lambda i: size(texts[i]), reverse=True)
    answers: list[Any] = [None] * len(texts)
    for begin in range(0, len(order), batch_size):
        places = order[begin : begin + batch_size]
        for place, given in zip(places, answer([texts[i] for i in places]), strict=True):
            answers[place] = given
    return answers


def truncation_note(num_truncated: int, num_records: int) -> tuple[str, ...]:
    """A note on records that were longer than the model's context; empty if there are none."""
    if not num_truncated:
        return ()
    return (
        f"{num_truncated:,} of {num_records:,} records are longer than the model's context and "
        "were truncated at their beginning, as in lm-evaluation-harness",
    )
