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
    """Train a new model or fine-tune a pretrained one, with `model.fit`.

    The task determines what is learned: to predict the next token of documents or the replies in
    conversations, to prefer the better of two replies, or to predict a column of records, such as
    the label of a text.

    A run is determined by its settings: if it was interrupted, calling `train` again with the same
    settings and folder continues from the last good checkpoint, and gives the same weights as a run
    without the interruption.

    A run can be made longer by larger `steps` (or `epochs`), and then gives the same weights as if
    it had been that long from the start. This is refused if the learning rates of the steps done so
    far would have been different, as with a cosine schedule.

    Ctrl-C and SIGTERM let the current step finish, save a checkpoint and return.

    With several workers, every worker calls this with the same arguments, and they share the
    folders of the data and the run.

    `trainable` chooses which weights of a pretrained model are trained: all, an adapter (LoRA), or
    the last blocks. Checkpoints contain only the trained weights, and the run stores a checksum of
    the base model. At its end, `RUN/model` is the complete model, with the adapter merged into it,
    and `RUN/adapter` the adapter by itself. With preferences, the model is tuned by DPO, with the
    initial model as the reference.

    Files are prepared once, in `RUN/data`. A hash chooses the records that are held out for
    validation, unless `validation` gives them. For tasks with columns, the finished model is
    evaluated on these records (`TrainedRun.task_metrics`).

    Args:
        data: folder that `tfllm.prepare` wrote; or files, folders and globs to prepare, with the
            model's tokenizer or a new one.
        run: folder of the run.
        model: name of a size, whose vocabulary becomes the tokenizer's; an architecture, whose
            vocabulary may be larger; a mapping of fields that override those of a size, such as
            `{"size": "bert-mini", "num_layers": 2}`; or the path of a pretrained model, as
            `tfllm.load` takes it. The context of a new one becomes at least the sequence length.
            Defaults to a small one of the task.
        config: settings of the training. Defaults to `TrainingConfig()`, with the defaults of the
            task.
        task: name of a task, a key of `tfllm.tasks.TASKS`. Defaults to the task of the run or of
            the prepared data; for files, the keys of their records decide between
            `language_modeling`, `instruction` and `preference`.
        validation: files of validation records, given as for `data`.
        columns: maps the task's columns, such as prompt and response, to their names in the files.
        prepare: settings of the preparation of files.
        strategy: name as in `tfllm.training.strategy`, or the strategy that it returned. Defaults
            to "auto".
        replicas: as in `tfllm.training.strategy`. It may change when a run is resumed: the data and
            their order stay the same.
        resume: require an existing run and continue it with its own settings, which those given
            must not contradict. Defaults to False.
        callbacks: Keras callbacks, such as `EarlyStopping`, `ModelCheckpoint`, `LambdaCallback` or
            your own. Their epochs end with each validation (every `validate_every` steps), and
            `on_epoch_end` receives `loss`, `val_loss` and so on; epochs and steps are counted from
            the start of the run. When a run is resumed, only their simple attributes (numbers and
            strings) are restored. A callback that stops the training ends the run, which then has
            its finished model; the setting `patience` does this without a callback. With several
            workers, callbacks are called only on the chief, must not run or change the model, and
            can stop the run only at a validation. `BackupAndRestore`, `LearningRateScheduler` and
            `ReduceLROnPlateau` are refused.
        verbose: print how the batch is divided, and show a progress bar. Defaults to True.
        settings: fields of `TrainingConfig`, which override `config`.

    Returns:
        The run, with the finished model.

    Raises:
        ConfigError: a setting is unknown or out of range, or differs from that of the run in the
            folder.
        FileExistsError: `run` contains other files.
        RuntimeError: another process is training in `run`, or a worker could not start.
        WorkerLost: another worker was lost.
        WorkersDisagree: a worker has other code, settings or data.
        LossIsNaN: the loss or the weights are not finite.
        CheckpointError: none of the checkpoints of a run to resume can be read.
        OSError: the disk is full or cannot be written to; what was saved is kept.
        ValueError: the training text is shorter than one row, or a shard was changed.
    """
    folder = RunFolder(run)
    callbacks = checked_callbacks(callbacks)
    build(TrainingConfig, settings)  # reports wrong settings before anything else happens
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
            f"{data.folder} is prepared already; leave out the settings of prepare, such as "
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
    """The settings of the preparation, with the arguments `validation` and `columns` of `train`."""
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
    """Prepare files in the run's folder, on the chief, and open the prepared data.

    Args:
        task: task of the run.
        data: the files.
        folder: folder of the run.
        config: settings of the preparation.
        resume: whether to use data that are prepared already without a check.
        strategy: strategy of the run.
        verbose: whether to show a progress bar and describe the data.
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
