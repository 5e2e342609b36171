"""The verb `train`: from prepared data to a run folder with a finished model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, PrepareConfig, TrainingConfig, build
from tfllm.data import PreparedData, open_data, prepared
from tfllm.data.shards.prepared_data import MANIFEST
from tfllm.distribution.agreement import on_chief
from tfllm.distribution.strategy import is_multi_worker, worker_index
from tfllm.distribution.strategy import strategy as strategy_named
from tfllm.distribution.worker_lost import lost_workers_named
from tfllm.pretrained.model_folder import is_pretrained
from tfllm.tasks.choosing import opened_data, task_of_run
from tfllm.tasks.task import Task
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import chosen
from tfllm.training.run_start import run_workers
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
    prepare: PrepareConfig | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    replicas: int | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    **settings: Any,
) -> TrainedRun:
    """Train a model through `model.fit`, from nothing or from a pretrained one.

    What it learns is a task: the next token of documents, the replies in conversations, the better
    one of two replies, or what records with columns say, such as a text and its label.

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

    Files become rows once, in `RUN/data`; some records are kept out of training, by a hash, or
    `validation` names such. A run of a task with columns ends with the finished model's answers to
    these records, measured (`TrainedRun.task_measures`).

    Args:
        data: what `tfllm.prepare` wrote; or files, folders and globs that it reads, which are then
            prepared in `RUN/data` with the model's tokenizer, or with a new one.
        run: the run's folder.
        model: a size's name, whose vocabulary becomes the tokenizer's; an architecture, whose
            vocabulary may be larger; a mapping of fields over a size's, such as
            `{"size": "bert-mini", "num_layers": 2}`; or the path of a pretrained model, as
            `tfllm.load` takes it. The context of a new one becomes at least the sequence length.
            Default: a small one of the task.
        config: settings of the training; default: `TrainingConfig()`, with a task's own defaults.
        task: the name of a task, a key of `tfllm.tasks.TASKS`. Default: that of the run or of the
            prepared data; of files what the keys of their records say, `language_modeling`,
            `instruction` or `preference`.
        validation: files as `data`, which are the validation records.
        columns: the task's columns, such as prompt and response, to the names that they have in
            the files.
        prepare: how files are prepared.
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
    build(TrainingConfig, settings)  # finds what is wrong before all else
    prepare = _with(prepare, validation, columns)
    saved = folder.read() if (folder.path / "run.json").exists() else {}
    data = opened_data(data)
    chosen_task = task_of_run(task, data, prepare, saved, folder.path)
    base = str(model) if is_pretrained(model) else None
    if model is None:
        base = saved.get("base", {}).get("path")
    given = {**chosen_task.defaults(pretrained=base is not None), **chosen(config), **settings}
    asked = build(TrainingConfig, given)
    if not resume:
        chosen_task.resolved(asked, pretrained=base is not None)
    if not isinstance(data, PreparedData):
        if isinstance(strategy, str):
            strategy = strategy_named(strategy, replicas=replicas)
        length = asked.sequence_length
        if resume and saved:
            length = saved["training"]["sequence_length"]
        how = chosen_task.prepare_config(prepare, base=base, sequence_length=length)
        data = _prepared(chosen_task, data, folder, how, resume, strategy, verbose)
    elif prepare != PrepareConfig():
        raise ConfigError(
            f"{data.folder} is prepared already; leave the settings of prepare out, such as "
            "columns and validation, or give the files"
        )
    return run_workers(
        chosen_task,
        folder,
        chosen_task.batched(data),
        model,
        config,
        settings,
        strategy=strategy,
        replicas=replicas,
        resume=resume,
        callbacks=callbacks,
        verbose=verbose,
    )


def _with(
    config: PrepareConfig | None, validation: Any, columns: Mapping[str, str] | None
) -> PrepareConfig:
    """The settings of preparation, with what was given beside them."""
    given = {"validation": validation, "columns": columns}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(config or PrepareConfig(), **values)


def _prepared(
    task: Task,
    data: Any,
    folder: RunFolder,
    config: PrepareConfig,
    resume: bool,
    strategy: tf.distribute.Strategy,
    verbose: bool,
) -> PreparedData:
    """The data of files, prepared by the chief in the run's folder.

    Args:
        task: of the run.
        data: the files.
        folder: of the run.
        config: how they are prepared.
        resume: they are as they were when the run began, if they are prepared.
        strategy: of the run.
        verbose: draw a progress bar, and say what the data are.
    """

    def prepare() -> None:
        if not (resume and (folder.data / MANIFEST).is_file()):
            prepared(task, data, folder.data, config, same_tokenizer=False, show_progress=verbose)

    with lost_workers_named(worker_index(strategy), several=is_multi_worker(strategy)):
        on_chief(strategy, prepare, "prepare the data")
    found = open_data(folder.data)
    if verbose and worker_index(strategy) == 0:
        print(found.describe(), file=sys.stderr)
    return found
