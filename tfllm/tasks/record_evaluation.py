"""Evaluate a model's answers to records."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tfllm.data.reading.table_records import Column, Record, Source, read_table
from tfllm.evaluation.evaluation import RecordEvaluation
from tfllm.evaluation.metric_values import metric_values
from tfllm.evaluation.metrics import Metric
from tfllm.files import atomic_file
from tfllm.tasks.text_model import MAX_OPEN_BATCH, TextModel


class EvaluatedTask(Protocol):
    """Interface of a task for evaluation, implemented by `RecordTask`."""

    @property
    def name(self) -> str:
        """Name of the task in `tfllm.tasks.TASKS`."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """Columns of a record, by name."""

    def remarks(self, records: Sequence[Record], served: TextModel) -> list[str]:
        """Remarks about the records on which a model is evaluated."""

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """Metrics of the predictions, the most important first."""

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """Draw charts into `folder`; returns their paths, possibly none."""


def evaluate_records(
    task: EvaluatedTask,
    model: TextModel,
    data: Source,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    skip_bad_records: bool = False,
    out: str | Path | None = None,
    batch_size: int = MAX_OPEN_BATCH,
    **metric_settings: Any,
) -> RecordEvaluation:
    """Answer records as a server would, and compute metrics with 95 % intervals.

    Args:
        task: task of the model.
        model: text model of the task.
        data: files of records with the correct answers (see `tfllm.data.reading.table_records`).
        columns: maps columns of the task to their names in the files.
        encoding: encoding of the files. Defaults to "utf-8".
        skip_bad_records: whether to skip and count malformed records instead of raising the first
            error. Defaults to False.
        out: .jsonl file to which every record is written, with its answer as `prediction`; pictures
            of the task are written next to it.
        batch_size: records per batch. Defaults to 32.
        metric_settings: settings of the task's metrics: `bleu_tokenizer` for translation,
            `rouge_tokenizer` for summarization (`tfllm.evaluation.text_metrics`).

    Returns:
        The metrics.

    Raises:
        OSError: there is no such file, or `out` cannot be written.
        ValueError: a record is malformed.
    """
    table = read_table(
        data,
        task.columns,
        columns,
        encoding=encoding,
        skip_bad_records=skip_bad_records,
        empty_inputs=True,
    )
    start = time.perf_counter()
    predictions = model.predict(table.records, batch_size=batch_size)
    seconds = time.perf_counter() - start
    notes = [*table.notes, *task.remarks(table.records, model)]
    num_truncated = sum(bool(prediction.get("truncated_tokens")) for prediction in predictions)
    if num_truncated:
        notes.append(
            f"{num_truncated:,} of {len(predictions):,} records are longer than the model's "
            "maximum length and were truncated (see truncated_tokens of each answer)"
        )
    metrics = metric_values(task.metrics(table.records, predictions, **metric_settings))
    notes += dict.fromkeys(metric.warning for metric in metrics if metric.warning)
    pictures: list[Path] = []
    path = None if out is None else Path(out)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, table.records, predictions)
        pictures = task.pictures(table.records, predictions, path.parent)
    return RecordEvaluation(
        task=task.name,
        num_records=len(predictions),
        num_errors=sum(bool(prediction.get("error")) for prediction in predictions),
        metrics=tuple(metrics),
        notes=tuple(notes),
        seconds=seconds,
        predictions=path,
        pictures=tuple(pictures),
    )


def _write(path: Path, records: Any, predictions: Any) -> None:
    with atomic_file(path) as file:
        for record, prediction in zip(records, predictions, strict=True):
            line = {**record, "prediction": prediction, "where": record.where}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
