"""A run that trains the model of a task."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, TrainingConfig, build, to_dict
from tfllm.data import PreparedData, TaskData, TaskDataConfig, open_data
from tfllm.data.shards.padding import padded_width
from tfllm.data.shards.prepared_data import MANIFEST
from tfllm.data.shards.task_rows import TaskRows
from tfllm.distribution.agreement import on_chief
from tfllm.distribution.strategy import is_multi_worker, worker_index
from tfllm.distribution.strategy import strategy as strategy_named
from tfllm.distribution.worker_lost import lost_workers_named
from tfllm.evaluation.measured import Measured, measured
from tfllm.optimization.training_step import TrainingStep
from tfllm.pretrained import save
from tfllm.tasks.definition import TaskDefinition
from tfllm.tasks.registry import task_definition
from tfllm.training.fitted_model import compile_for_run
from tfllm.training.pretrained_base import is_pretrained
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import SettingsKind, chosen
from tfllm.training.run_start import run_workers
from tfllm.training.task_preparation import prepare_task
from tfllm.training.trained_run import TrainedRun
from tfllm.training.worker_run import WorkerRun


def is_task_run(folder: RunFolder) -> bool:
    """Whether a folder holds a run that trains the model of a task."""
    return (folder.path / "run.json").exists() and "task" in folder.read()


def is_task_data(data: Any) -> bool:
    """Whether what a run is to be trained on are examples of a task, already prepared."""
    if isinstance(data, str | Path) and (Path(data) / MANIFEST).is_file():
        data = open_data(data)
    return isinstance(data, TaskData)


def task_data_config(
    config: TaskDataConfig | None, validation: Any, columns: Mapping[str, str] | None
) -> TaskDataConfig:
    """The settings, with what was given beside them."""
    config = config or TaskDataConfig()
    if validation is not None:
        config = dataclasses.replace(config, validation=validation)
    if columns is not None:
        config = dataclasses.replace(config, columns=dict(columns))
    return config


def train_task(
    data: Any,
    folder: RunFolder,
    model: Any,
    config: TrainingConfig | None,
    settings: dict[str, Any],
    *,
    task: str | None,
    prepare: TaskDataConfig,
    strategy: str | tf.distribute.Strategy,
    replicas: int | None,
    resume: bool,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: bool,
) -> TrainedRun:
    """Train the model of a task: see `tfllm.train`.

    Args:
        data: files of records, or a folder of examples.
        folder: of the run.
        model: a preset, sizes, an architecture, or the path of a pretrained model.
        config: as of `train`.
        settings: over `config`.
        task: its name; None: that of the run or of the data.
        prepare: which records are trained on, and how they are read.
        strategy: as of `train`.
        replicas: as of `train`.
        resume: as of `train`.
        callbacks: as of `train`, checked.
        verbose: as of `train`.
    """
    saved = folder.read() if (folder.path / "run.json").exists() else {}
    if isinstance(data, str | Path) and (Path(data) / MANIFEST).is_file():
        data = open_data(data)
    if isinstance(data, PreparedData) and not isinstance(data, TaskData):
        raise ConfigError(
            f"a task learns from records, and {data.folder} is prepared {data.records}; give the "
            "files of the records"
        )
    found = saved.get("task", {}).get("name")
    name = task or found or data.task
    for other, where in ((found, folder.path), (getattr(data, "task", None), data)):
        if other is not None and other != name:
            raise ConfigError(f"{where} is of the task {other}; received task={name!r}")
    if saved and found is None:
        raise ConfigError(
            f"{folder.path} holds a run of a language model; give another folder for the task"
        )
    definition = task_definition(name)
    base = str(model) if is_pretrained(model) else None
    if model is None and resume:
        base = saved.get("base", {}).get("path")
    defaults = dict(definition.training_defaults)
    if base is not None:
        defaults |= definition.pretrained_defaults
    asked = build(TrainingConfig, {**defaults, **chosen(config), **settings})
    for field in ("lora", "top"):
        if asked.resolved(pretrained=True).trainable == field:
            raise ConfigError(f"the model of a task is trained whole; received {field}")
    if isinstance(strategy, str):
        strategy = strategy_named(strategy, replicas=replicas)
    if not isinstance(data, TaskData):
        length = saved["training"]["sequence_length"] if resume and saved else asked.sequence_length

        def make() -> None:
            if not (resume and (folder.data / MANIFEST).is_file()):
                prepare_task(
                    definition,
                    data,
                    folder.data,
                    prepare,
                    base=base,
                    sequence_length=length,
                    show_progress=verbose,
                )

        with lost_workers_named(worker_index(strategy), several=is_multi_worker(strategy)):
            on_chief(strategy, make, "prepare the records")
        data = open_data(folder.data)
        if verbose and worker_index(strategy) == 0:
            print(open_data(folder.data).describe(), file=sys.stderr)
    assert isinstance(data, TaskData)
    data = data.collated(definition.batch)

    def fitted(model: Any, data: PreparedData, training: TrainingConfig) -> Any:
        return _architecture(definition, model, data, training)

    def worker(*arguments: Any) -> WorkerRun:
        return TaskRun(definition, *arguments)

    return run_workers(
        folder,
        data,
        model,
        config,
        settings,
        strategy=strategy,
        replicas=replicas,
        resume=resume,
        callbacks=callbacks,
        verbose=verbose,
        kind=SettingsKind(definition.config_class, fitted, defaults),
        worker=worker,
    )


def _architecture(
    definition: TaskDefinition, model: Any, data: PreparedData, training: TrainingConfig
) -> Any:
    """The architecture that was asked for, with the tokenizer's vocabulary and room for an example.

    Raises:
        ConfigError: it does not fit the tokenizer, or is of another kind than the task's.
    """
    base, preset, sizes = None, None, dict[str, Any]()
    if is_pretrained(model):
        base = str(model)
    elif isinstance(model, str):
        preset = model
    elif isinstance(model, Mapping):
        sizes = dict(model)
        preset = sizes.pop("preset", None)
    elif isinstance(model, definition.config_class):
        sizes = to_dict(model)
    elif model is not None:
        raise ConfigError(
            f"the model of {definition.name} must be a preset's name, sizes, the path of a "
            f"pretrained model or a {definition.config_class.__name__}; received "
            f"{type(model).__name__}"
        )
    config = definition.config(
        base,
        preset,
        sizes,
        vocab_size=data.vocab_size,
        sequence_length=training.sequence_length,
    )
    if config.vocab_size < data.vocab_size:
        raise ConfigError(
            f"the tokenizer does not fit the model: it has {data.vocab_size} token ids, the "
            f"model's vocab_size is {config.vocab_size}; leave vocab_size out, or raise it"
        )
    return config


class TaskRun(WorkerRun):
    """One worker's part of a run that trains the model of a task.

    Args:
        definition: the task.
        arguments: as of `WorkerRun`.
    """

    data: TaskData

    def __init__(self, definition: TaskDefinition, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.definition = definition

    def _fitted_model(self) -> TrainingStep:
        model = self.definition.model(
            self.settings.base,
            self.model_config,
            self.data.information,
            self.config,
            self.data.tokenizer,
        )
        compile_for_run(model, self.config, self.total_steps)
        return model

    def _check_tokenizer(self, path: str) -> None:
        """The chief took it from there, and its files have checksums."""

    def _longest_row(self) -> int:
        """A batch is as wide as its longest example."""
        train = self.data.train
        assert isinstance(train, TaskRows)
        return max(1, padded_width([train.longest], self.config.sequence_length))

    def _tokens_per_step(self) -> int:
        train = self.data.train
        assert isinstance(train, TaskRows)
        return max(1, round(self.batch_size * train.num_tokens / train.num_examples))

    def _flops_per_token(self, model: TrainingStep) -> float:
        """6 for each number in the matrices, tables aside (Kaplan et al., 2020): an estimate."""
        kernels = [
            v for v in model.trainable_weights if len(v.shape) > 1 and "embedding" not in v.path
        ]
        return 6.0 * sum(math.prod(v.shape) for v in kernels)

    def _task_settings(self) -> dict[str, Any]:
        return {"task": {"name": self.definition.name}}

    def _measured(self, model: Any) -> tuple[Measured, ...]:
        records = self.data.validation_records()[: self.definition.most_measured]
        if not records:
            return ()
        served = self.definition.served(model, self.data.tokenizer, self.data.information)
        predictions = served.predict(records)
        return tuple(measured(self.definition.measures(records, predictions)))

    def _save(self, run: TrainedRun, summary: dict[str, Any]) -> None:
        save(
            run.model,
            self.folder.model,
            self.data.tokenizer,
            training_summary=summary,
            task={"name": self.definition.name, "information": self.data.information},
        )
