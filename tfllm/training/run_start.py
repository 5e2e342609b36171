"""The start of a run: decide its settings, and start every worker."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import TrainingConfig, build, to_dict
from tfllm.data import PreparedData
from tfllm.distribution.agreement import agree, on_chief
from tfllm.distribution.strategy import is_multi_worker, worker_index
from tfllm.distribution.strategy import strategy as strategy_named
from tfllm.distribution.worker_lost import lost_workers_named
from tfllm.models.longer_context import LongerContextWarning
from tfllm.optimization.precision import choose_precision
from tfllm.tasks.task import Task
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import RunSettings, chosen, new, resumed
from tfllm.training.trained_run import TrainedRun
from tfllm.training.worker_run import WorkerRun


def run_workers(
    task: Task,
    folder: RunFolder,
    data: PreparedData,
    model: Any,
    config: TrainingConfig | None,
    settings: dict[str, Any],
    *,
    strategy: str | tf.distribute.Strategy,
    replicas: int | None,
    resume: bool,
    verbose: bool,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainedRun:
    """Start or resume a run; every worker calls this with the same arguments.

    Args:
        task: task of the run.
        folder: folder of the run.
        data: prepared data of the run.
        model: as in `train`.
        config: as in `train`.
        settings: settings that override `config`.
        strategy: as in `train`.
        replicas: as in `train`.
        resume: as in `train`.
        verbose: as in `train`.
        callbacks: as in `train`, already checked.
    """
    # Both of these report errors in the settings before anything else happens.
    given = build(TrainingConfig, {**task.training_defaults, **chosen(config), **settings})
    with _without_warning_of_context():  # `_start` warns if a new run is started
        asked = None if resume else new(task, data, model, config, settings)
    if isinstance(strategy, str):
        strategy = strategy_named(strategy, replicas=replicas)
    asks = {
        "settings": to_dict(given if asked is None else asked.training),
        "task": task.name,
        "model": None if asked is None else to_dict(asked.model),
        "data": data.digest,
        "resume": resume,
        "replicas": strategy.num_replicas_in_sync,
        "callbacks": [type(callback).__name__ for callback in callbacks],
    }
    with lost_workers_named(worker_index(strategy), several=is_multi_worker(strategy)):
        agree(asks, strategy)
        try:
            start = functools.partial(_start, task, folder, data, model, config, settings, resume)
            started = on_chief(strategy, start, "begin the run")
            worker_run = WorkerRun(
                task,
                folder,
                data,
                RunSettings(
                    build(task.config_class, started["model"]),
                    build(TrainingConfig, started["training"]),
                    started["base"],
                    started["steps_before"],
                ),
                strategy,
                verbose and worker_index(strategy) == 0,
            )
            worker_run.callbacks = callbacks
            return worker_run.train(goes_on=started["goes_on"])
        finally:
            folder.close()


def _start(
    task: Task,
    folder: RunFolder,
    data: PreparedData,
    model: Any,
    config: TrainingConfig | None,
    settings: dict[str, Any],
    resume: bool,
) -> dict[str, Any]:
    """Lock the folder and decide the settings of the run; only the chief calls this."""
    goes_on = folder.open(resume=resume)
    if goes_on:
        with _without_warning_of_context():
            started = resumed(task, folder, data, model, config, settings, all_of_them=not resume)
    else:
        started = new(task, data, model, config, settings)
        started = started._replace(training=_measured(started.training))
    return {
        "model": to_dict(started.model),
        "training": to_dict(started.training),
        "base": started.base,
        "steps_before": started.steps_before,
        "goes_on": goes_on,
    }


@contextlib.contextmanager
def _without_warning_of_context() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LongerContextWarning)
        yield


def _measured(config: TrainingConfig) -> TrainingConfig:
    """The settings with the precision that is fastest on this machine."""
    # The products of a bfloat16 base are computed in bfloat16.
    wanted = "bfloat16" if config.base_dtype == "bfloat16" else config.precision
    precision = choose_precision(wanted)
    values: dict[str, Any] = {"precision": precision}
    if config.trainable == "lora" and config.base_dtype == "auto":
        values["base_dtype"] = "bfloat16" if precision == "bfloat16" else "float32"
    return dataclasses.replace(config, **values)
