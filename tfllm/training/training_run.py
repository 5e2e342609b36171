"""The verb `train`: from prepared data to a run folder with a finished model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, PrepareConfig, TrainingConfig, build
from tfllm.data import PreparedData, TaskDataConfig, open_data, prepared
from tfllm.distribution.agreement import on_chief
from tfllm.distribution.strategy import is_multi_worker, worker_index
from tfllm.distribution.strategy import strategy as strategy_named
from tfllm.distribution.worker_lost import lost_workers_named
from tfllm.training.pretrained_base import is_pretrained
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_start import run_workers
from tfllm.training.task_run import is_task_data, is_task_run, task_data_config, train_task
from tfllm.training.trained_run import TrainedRun
from tfllm.training.user_callbacks import checked_callbacks


def train(
    data: Any,
    run: str | Path,
    model: Any = None,
    config: TrainingConfig | None = None,
    *,
    task: str | None = None,
    validation: Any = None,
    columns: Mapping[str, str] | None = None,
    prepare: PrepareConfig | TaskDataConfig | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    replicas: int | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    **settings: Any,
) -> TrainedRun:
    """Train a model through `model.fit`, from nothing or from a pretrained one.

    It is a causal language model, which learns from text, examples or preferences; or with `task`
    the model of a task, which learns from records with columns, such as a text and its label.

    A run is a function of its settings: called again with the same ones on the same folder, it goes
    on from the last good checkpoint, and ends with the weights that it would have had.

    A run can be made longer: with larger `steps` (or `epochs`) it goes on, and ends with the
    weights that it would have had if they had been asked for at once. Where the learning rates of
    the steps that are done would have been others (a cosine ends with its run), it is refused.

    Ctrl-C and SIGTERM let the step under way finish, save a checkpoint and return.

    Under several workers every worker calls this with the same arguments, and they share the
    folders of the data and the run.

    A pretrained model is fine-tuned as `trainable` says: all weights, an adapter (LoRA), or the
    last blocks. Checkpoints hold what is trained alone, and the run remembers a checksum of the
    base. It ends with a whole model folder in `RUN/model`, an adapter merged into it, and with the
    adapter alone in `RUN/adapter`. Data of preferences tune the model by them (DPO), against what
    it was at the start.

    Records become examples once, in `RUN/data`; some of them are kept out of training, by a hash,
    or `validation` names such. The run ends with the finished model's answers to these records,
    measured (`TrainedRun.task_measures`).

    Args:
        data: what `tfllm.prepare` wrote; for a pretrained model also files that it reads, which
            are then prepared in `RUN/data` with the model's tokenizer. Of a task: files, folders
            and globs of JSON lines, CSV, TSV or Parquet (see `tfllm.data.reading.table_records`).
        run: the run's folder.
        model: a preset's name, whose vocabulary becomes the tokenizer's; a mapping of a preset with
            other sizes, such as `{"preset": "llama-4m", "num_layers": 2}`; an architecture, whose
            vocabulary may be larger; or the path of a pretrained model, as `tfllm.load` takes it.
            The context of a new one becomes at least the sequence length. Default: "llama-4m". Of a
            task: as its definition says.
        config: settings of the training; default: `TrainingConfig()`, with a task's own defaults.
        task: the name of a task, a key of `tfllm.tasks.TASKS`.
        validation: of a task: files as `data`, which are the validation records.
        columns: of a task its columns, of examples theirs, such as prompt and response, to the
            names that they have in the files.
        prepare: how files are prepared; its tokenizer is the model's. Of a task a `TaskDataConfig`.
        strategy: as in `tfllm.training.strategy`, or what that gave.
        replicas: as in `tfllm.training.strategy`. It may be another when a run goes on: the data
            and their order stay the same.
        resume: there must be a run, and it goes on with its settings; what is given must not
            differ.
        callbacks: Keras callbacks, such as `EarlyStopping`, `ModelCheckpoint`, `LambdaCallback` or
            your own. An epoch of theirs ends with each validation (every `validate_every` steps),
            and `on_epoch_end` has `loss`, `val_loss` and so on; epochs and steps are counted from
            the run's beginning. Where a run goes on, their simple attributes (numbers, texts) are
            what they were at the checkpoint, and nothing else. One that ends the training ends the
            run, which then has its model; as a setting that is `patience`. With several workers
            they are called on the chief alone, must not run or change the model, and what they end
            ends with the next validation. `BackupAndRestore`, `LearningRateScheduler` and
            `ReduceLROnPlateau` are refused.
        verbose: print how the batch is divided, and draw a progress bar.
        settings: fields of `TrainingConfig`, over `config`.

    Returns:
        the run, with the finished model.

    Raises:
        ConfigError: a setting is unknown or out of range, or differs from the run's in the folder.
        FileExistsError: `run` holds other files.
        RuntimeError: another process trains in `run`, or a worker could not start.
        WorkerLost: another worker went away.
        WorkersDisagree: a worker has other code, settings or data.
        LossIsNaN: the loss or the weights are not finite.
        CheckpointError: none of the checkpoints of a run that is to go on can be read.
        OSError: the disk is full or cannot be written to; what was saved stays.
        ValueError: the training text is shorter than one row, or a shard was changed.
    """
    folder = RunFolder(run)
    callbacks = checked_callbacks(callbacks)
    if task is not None or is_task_run(folder) or is_task_data(data):
        if isinstance(prepare, PrepareConfig):
            if prepare != PrepareConfig():
                raise ConfigError("prepare must be a TaskDataConfig where a task is trained")
            prepare = None
        return train_task(
            data,
            folder,
            model,
            config,
            settings,
            task=task,
            prepare=task_data_config(prepare, validation, columns),
            strategy=strategy,
            replicas=replicas,
            resume=resume,
            callbacks=callbacks,
            verbose=verbose,
        )
    if validation is not None or isinstance(prepare, TaskDataConfig):
        raise ConfigError(
            "validation and TaskDataConfig are of records for a task; name it with task="
        )
    if columns is not None:
        named = tuple(f"{name}={key}" for name, key in columns.items())
        prepare = dataclasses.replace(prepare or PrepareConfig(), columns=named)
    if not isinstance(data, PreparedData):
        if (Path(data) / "manifest.json").exists() or not (
            is_pretrained(model) or folder.data.exists()
        ):
            data = open_data(data)
        else:
            build(TrainingConfig, settings)  # finds what is wrong before all else
            if isinstance(strategy, str):
                strategy = strategy_named(strategy, replicas=replicas)
            how = None  # as it was done when the run began
            if model is not None:
                how = dataclasses.replace(prepare or PrepareConfig(), tokenizer=str(model))
            data = _prepared(data, folder, how, strategy, verbose)
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
    )


def _prepared(
    data: str | Path,
    folder: RunFolder,
    config: PrepareConfig | None,
    strategy: tf.distribute.Strategy,
    verbose: bool,
) -> PreparedData:
    """The data of files, prepared by the chief in the run's folder.

    Args:
        data: the files.
        folder: of the run.
        config: how they are prepared; None: as they were when the run began.
        strategy: of the run.
        verbose: draw a progress bar.
    """

    def prepare() -> None:
        if config is not None:
            prepared(data, folder.data, config, show_progress=verbose)

    with lost_workers_named(worker_index(strategy), several=is_multi_worker(strategy)):
        on_chief(strategy, prepare, "prepare the data")
    return open_data(folder.data)
