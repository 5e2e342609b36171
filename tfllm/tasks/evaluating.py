"""How good a model's answers to records are, each answer kept."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfllm.data.reading.table_records import Source, read_table
from tfllm.evaluation.measured import Measured, measured
from tfllm.pretrained import task_of
from tfllm.pretrained.model_folder import model_folder
from tfllm.tasks.registry import TASKS, task_definition
from tfllm.tasks.served import MAX_OPEN_BATCH, ServedTask


@dataclass(frozen=True)
class TaskEvaluation:
    """What `evaluate_task` found."""

    task: str
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; a measure that is undefined is null."""
        values = dataclasses.asdict(self)
        for measure in values["measures"]:
            for name in ("value", "low", "high"):
                if math.isnan(measure[name]):
                    measure[name] = None
        values["predictions"] = None if self.predictions is None else str(self.predictions)
        values["pictures"] = [str(path) for path in self.pictures]
        return values


def evaluate_task(
    model: str | Path | ServedTask,
    data: Source,
    *,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    skip_bad_records: bool = False,
    out: str | Path | None = None,
    dtype: str = "float32",
    batch_size: int = MAX_OPEN_BATCH,
    measure_settings: Mapping[str, Any] | None = None,
) -> TaskEvaluation:
    """Answer records as a server would, and measure the answers with 95 % intervals.

    Args:
        model: a model folder, a run, or what `tfllm.load_task` gave.
        data: files of records, with what is right (see `tfllm.data.reading.table_records`).
        task: a key of `tfllm.tasks.TASKS`; default: the one that the model folder names.
        columns: columns of the task to the names that they have in the files.
        encoding: of the files.
        skip_bad_records: count broken records and pass over them; else the first is an error.
        out: a .jsonl file that every record is written to, with the answer under `prediction`;
            pictures, where the task draws some, stand beside it.
        dtype: in which a model folder is loaded.
        batch_size: records answered at once.
        measure_settings: of the task's measures: `bleu_tokenizer` of a translation,
            `rouge_tokenizer` of a summarization (`tfllm.evaluation.text_measures`).

    Raises:
        OSError: there is no such model or file, or `out` cannot be written.
        ValueError: the model is of another task, or a record is broken.
    """
    name = task
    if name is None and not isinstance(model, ServedTask):
        found = task_of(model)
        name = None if found is None else found["name"]
        if name is None and not model_folder(model).is_dir():
            raise FileNotFoundError(
                f"there is no model at {model}; give a run, or the folder of a model"
            )
    if name is None or name not in TASKS:
        raise ValueError(
            f"task must say what the model is measured for, one of {', '.join(TASKS)}; "
            f"received {name!r}"
        )
    definition = task_definition(name)
    for setting in measure_settings or {}:
        if setting not in definition.measure_settings:
            has = ", ".join(definition.measure_settings) or "none"
            raise ValueError(
                f"{setting} is no setting of the measures of {name}; it has {has}: leave it out"
            )
    table = read_table(
        data,
        definition.columns,
        columns,
        encoding=encoding,
        skip_bad_records=skip_bad_records,
        empty_inputs=True,
    )
    if isinstance(model, ServedTask):
        served = model
    else:
        served = definition.served(*definition.load(model))
        served = served if dtype == "float32" else served.with_dtype(dtype)
    start = time.perf_counter()
    predictions = served.predict(table.records, batch_size=batch_size)
    seconds = time.perf_counter() - start
    notes = [*table.notes, *definition.remarks(table.records, served)]
    num_cut = sum(bool(prediction.get("truncated_tokens")) for prediction in predictions)
    if num_cut:
        notes.append(
            f"{num_cut:,} of {len(predictions):,} records are longer than what the model takes at "
            "once and lost their ends (truncated_tokens of each answer)"
        )
    measures = measured(definition.measures(table.records, predictions, **(measure_settings or {})))
    notes += dict.fromkeys(measure.warning for measure in measures if measure.warning)
    pictures: list[Path] = []
    path = None if out is None else Path(out)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, table.records, predictions)
        pictures = definition.pictures(table.records, predictions, path.parent)
    return TaskEvaluation(
        task=name,
        num_records=len(predictions),
        num_errors=sum(bool(prediction.get("error")) for prediction in predictions),
        measures=tuple(measures),
        notes=tuple(notes),
        seconds=seconds,
        predictions=path,
        pictures=tuple(pictures),
    )


def _write(path: Path, records: Any, predictions: Any) -> None:
    """Beside and renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            for record, prediction in zip(records, predictions, strict=True):
                line = {**record, "prediction": prediction, "where": record.where}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
