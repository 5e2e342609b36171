"""The verb `evaluate`: measure how good a model is at its task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfllm.config import ConfigError
from tfllm.data import PreparedData
from tfllm.evaluation.evaluation import Evaluation
from tfllm.pretrained.model_folder import model_folder
from tfllm.tasks.choosing import opened_data
from tfllm.tasks.loading import task_of_model
from tfllm.tasks.registry import task_named
from tfllm.tasks.task import Task
from tfllm.tasks.text_model import TextModel


def evaluate(
    model: Any,
    data: Any,
    *,
    task: str | None = None,
    dtype: str = "float32",
    adapter: str | Path | None = None,
    **settings: Any,
) -> Evaluation:
    """Evaluate a model: its perplexity on text, or its answers to records, as when served.

    Args:
        model: a model folder, a run, a .gguf file, `hf://ORGANISATION/NAME`, the result of
            `tfllm.load`, or a `CausalLM`.
        data: folder that `tfllm.prepare` wrote, or files; for a task with columns, files of records
            that include the correct answers.
        task: a key of `tfllm.tasks.TASKS`. Defaults to the task of the model.
        dtype: dtype in which a model is loaded. Defaults to "float32".
        adapter: folder of an adapter for the model, in PEFT's layout, to be merged.
        settings: settings of the task. For a language model: `split`, `sequence_length`,
            `batch_size`, `num_batches`, `separate_documents` and `tokenizer`
            (`tfllm.evaluation.perplexity`). For a task with columns: `columns`, `encoding`,
            `skip_bad_records`, `out`, `batch_size` and settings of its metrics
            (`tfllm.tasks.record_evaluation`).

    Returns:
        The metrics.

    Raises:
        OSError: there is no such model or file.
        ValueError: the model is for another task, a record is malformed, or the task has no such
            setting.
    """
    if task is not None:
        _check_settings(task_named(task), settings)
    if isinstance(model, str | Path):
        model_folder(model)  # checks that it exists, before anything else
    data = opened_data(data)  # before the model, which takes longer to load
    name = task
    if name is None:
        if isinstance(model, TextModel):
            name = model.task_name
        elif isinstance(model, str | Path):
            name = task_of_model(model)
        else:
            name = "language_modeling"
    chosen = task_named(name)
    _check_settings(chosen, settings)
    if isinstance(data, PreparedData) and data.records == "task":
        raise ValueError(
            f"{data.folder} contains the examples of a task, which have no perplexity; evaluate "
            "the model on records: tfllm evaluate MODEL --data FILE"
        )
    if not isinstance(data, PreparedData):
        chosen.files(data, chosen.prepare_config())  # checks that they exist
    if isinstance(model, str | Path):
        model = chosen.load(model, dtype=dtype, adapter=adapter)
    elif adapter is not None or dtype != "float32":
        raise ConfigError(
            "dtype and adapter are for a model that is loaded from a path; received a loaded model"
        )
    return chosen.evaluate(model, data, **settings)


def _check_settings(task: Task, settings: Mapping[str, Any]) -> None:
    for setting in settings:
        if setting not in task.evaluate_settings:
            raise ConfigError(
                f"{setting} is not for the task {task.name}, whose evaluation takes "
                f"{', '.join(task.evaluate_settings)}; leave it out"
            )
