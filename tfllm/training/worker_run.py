"""One worker's part of a run, from building the model to the last step."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import ConfigError, to_dict
from tfllm.data import PreferenceData, PreparedData
from tfllm.distribution.agreement import exchange, on_all, on_chief
from tfllm.distribution.strategy import is_multi_worker, plan_batch, worker_index
from tfllm.models.preference_tuning import PreferenceTuning
from tfllm.optimization.precision import matmul_peak
from tfllm.optimization.training_step import TrainingStep
from tfllm.pretrained import Pretrained
from tfllm.pretrained.fingerprint import fingerprint
from tfllm.tasks.task import Task
from tfllm.training.callbacks import RunCallback, num_updates
from tfllm.training.checkpoints.background_checkpoints import BackgroundCheckpoints
from tfllm.training.checkpoints.checkpoint_files import read_state
from tfllm.training.checkpoints.checkpoints import Progress
from tfllm.training.checkpoints.restoring import leave_end_out, restore_best, restore_last_good
from tfllm.training.compiling import compile_for_run
from tfllm.training.finished_model import write_finished
from tfllm.training.interruption import Interruption
from tfllm.training.memory_check import check_memory
from tfllm.training.preference_reference import read_reference, write_reference
from tfllm.training.pretrained_base import base_path, check_fingerprint, num_trained
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import RunSettings, total_steps
from tfllm.training.run_writer import RunWriter
from tfllm.training.throughput import Throughput, device_memory
from tfllm.training.trained_run import TrainedRun
from tfllm.training.user_callbacks import UserCallbacks, history_of
from tfllm.training.worker_rows import WorkerRows, has_device
from tfllm.version import __version__


class WorkerRun:
    """One worker's part of a run; every worker has one, and they run in lockstep.

    Args:
        task: task of the run.
        folder: folder of the run, open on the chief.
        data: data prepared for the task.
        settings: settings of the run.
        strategy: strategy of the run.
        verbose: whether to print how the batch is divided, and show a progress bar.
    """

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        data: PreparedData,
        settings: RunSettings,
        strategy: tf.distribute.Strategy,
        verbose: bool,
    ) -> None:
        self.task = task
        self.folder = folder
        self.data = data
        self.config = config = settings.training
        assert config.batch_size is not None
        self.batch_size = config.batch_size
        self.model_config = settings.model
        self.settings = settings
        self.base: Pretrained | None = None
        self.base_fingerprint: dict[str, Any] = {}
        self.strategy = strategy
        self.worker = worker_index(strategy)
        self.verbose = verbose
        self.checkpoints = BackgroundCheckpoints(folder.checkpoints, config.keep_checkpoints)
        self.total_steps = total_steps(config, data)
        self.callbacks: Sequence[keras.callbacks.Callback] = ()
        self.batch = plan_batch(self.batch_size, config.gradient_accumulation, strategy)

    def train(self, *, goes_on: bool) -> TrainedRun:
        """Train from the start, or continue from the last good checkpoint if `goes_on`."""
        with Interruption() as interruption:  # from now on, since the start may take long
            return self._train(goes_on, interruption)

    def _train(self, goes_on: bool, interruption: Interruption) -> TrainedRun:
        config = self.config
        self._rows.training(num_batches=1)  # reports errors before a file is written
        self._verify_data()
        if self.verbose:
            device = "TPU" if has_device("TPU") else "GPU" if has_device("GPU") else "CPU"
            batch = self.batch.describe(config.sequence_length)
            print(f"{device}, products in {config.precision}: {batch}", file=sys.stderr)
        self._check_memory()
        with self.strategy.scope():
            model, self.base = self.task.fitted(
                self.settings.base, self.model_config, config, self.data
            )
            compile_for_run(model, config, self.total_steps)
        if self.settings.base is not None:
            self._check_base(model, goes_on)
        if is_multi_worker(self.strategy):
            model.votes_to_stop = tf.Variable(0.0)  # local to this process: outside the scope
        progress = Progress()
        if goes_on:
            progress = restore_last_good(model, self.checkpoints, self.strategy)
            if self.settings.steps_before is not None:
                leave_end_out(progress, config, self.checkpoints, self.strategy)
            if self.verbose and progress.step:
                print(f"continuing from step {progress.step}", file=sys.stderr)

        def prepare_folder() -> None:
            if goes_on:
                self.folder.trim_metrics(progress.step)
                if self.settings.steps_before is not None:
                    values = self.folder.read()
                    values.pop("result", None)
                    self.folder.write({**values, "training": to_dict(config)})
            else:
                self._write_settings()

        on_chief(self.strategy, prepare_folder, "write to the run's folder")
        # Later every worker reads what the chief writes: check now that all of them can.
        on_all(self.strategy, lambda: self.folder.read() and None, "read the run's folder")
        if self.task.has_reference:
            self._attach_reference(model, progress)
        with contextlib.ExitStack() as open_now:
            writer = None
            if self.worker == 0:
                open_now.enter_context(self.checkpoints)
                writer = open_now.enter_context(
                    RunWriter(
                        self.folder, progress, total_steps=self.total_steps, verbose=self.verbose
                    )
                )
            callback = RunCallback(
                self.checkpoints,
                progress,
                self._throughput(model),
                writer,
                total_steps=self.total_steps,
                steps_per_execution=config.steps_per_execution,
                validate=self._validation(model),
                validate_every=config.validate_every,
                checkpoint_every=config.checkpoint_every,
                interruption=interruption,
                patience=config.patience,
                users=self._user_callbacks(model, writer),
                agreed=self._any_worker if self.callbacks and self._is_one_of_several else None,
            )
            left = 0 if progress.stopped else self.total_steps - progress.step
            if callback.users and (left or progress.validation_due):
                callback.users.begin(progress.callbacks)
            if progress.validation_due:  # the interrupted run skipped it
                callback.set_model(model)
                callback.validate_now()
            if left and not progress.stopped:
                self._fit(model, callback, progress.step, left)
            if callback.users and left:
                last = progress.history[-1] if progress.history else {}
                callback.users.end({n: v for n, v in last.items() if n != "step"})
        return self._finished(model, progress, callback, interruption)

    def _fit(self, model: TrainingStep, callback: RunCallback, start: int, left: int) -> None:
        rest = left % self.config.steps_per_execution
        self._fit_steps(model, callback, start, left - rest)
        if rest and not (
            callback.interrupted or callback.progress.stopped
        ):  # fewer steps than a call executes: run them one per call
            model.steps_per_execution = callback.steps_per_execution = 1
            model.make_train_function(force=True)
            model.make_test_function(force=True)
            self._fit_steps(model, callback, start + left - rest, rest)

    def _fit_steps(
        self, model: TrainingStep, callback: RunCallback, start: int, steps: int
    ) -> None:
        if not steps:
            return
        # In an infinite dataset all batches have static shapes, and workers need not ask each other
        # at each step whether there is a further batch.
        rows = self._rows.training(start_step=start)
        try:
            model.fit(
                rows,
                steps_per_epoch=steps,
                callbacks=[callback],
                verbose=0,
                shuffle=False,  # the rows are shuffled already
            )
        except tf.errors.OpError:
            self.data.raise_read_error()  # the original error, which TensorFlow wraps in many lines
            raise

    @property
    def _rows(self) -> WorkerRows:
        return WorkerRows(self.data, self.config, self.batch, self.strategy)

    @property
    def _is_one_of_several(self) -> bool:
        return is_multi_worker(self.strategy)

    def _any_worker(self, wants: bool) -> bool:
        """Whether `wants` is true on any worker; every worker must call this."""
        return any(exchange(wants, self.strategy))

    def _user_callbacks(
        self, model: TrainingStep, writer: RunWriter | None
    ) -> UserCallbacks | None:
        """The user's callbacks on the chief; None on other workers."""
        if not self.callbacks or writer is None:
            return None
        every = self.config.validate_every
        epochs = math.ceil(self.total_steps / every)
        return UserCallbacks(self.callbacks, model, epochs=epochs, steps=every)

    def _verify_data(self) -> None:
        """Verify the checksums of the shards; the workers divide this if they share the folder."""
        manifest = (Path(self.data.folder) / "manifest.json").stat()
        seen = exchange([manifest.st_ino, manifest.st_mtime_ns], self.strategy)
        shared = all(other == seen[0] for other in seen)
        part = (self.worker, self.batch.workers) if shared else (0, 1)
        verify = functools.partial(self.data.verify, part, show_progress=self.verbose)
        on_all(self.strategy, verify, "read its shards")

    def _check_memory(self) -> None:
        """Estimate the memory that the run needs, and refuse it if that is not available."""
        if has_device("TPU"):  # TensorFlow does not report its memory
            return
        longest = self.task.longest_row(self.data, self.config.sequence_length)
        check_memory(
            self.model_config,
            dataclasses.replace(self.config, sequence_length=longest),
            rows=self.batch.rows_per_micro_batch,
            replicas=self.batch.replicas,
            replicas_here=self.batch.replicas // self.batch.workers,
            sequences_per_row=self.task.sequences_per_row,
            device_memory=device_memory(),
            verbose=self.verbose,
        )

    def _throughput(self, model: TrainingStep) -> Throughput:
        peak = matmul_peak(self.config.precision)
        on_cpu = not has_device("GPU") and not has_device("TPU")  # replicas share its cores
        return Throughput(
            self.task.tokens_per_step(self.data, self.batch_size, self.config.sequence_length),
            self.batch.replicas,
            self.task.flops_per_token(model, self.model_config, self.config),
            peak * (self.batch.workers if on_cpu else self.batch.replicas),
        )

    def _check_base(self, model: TrainingStep, goes_on: bool) -> None:
        """Check that all workers have the weights the run started from, and the right tokenizer."""
        path = self.settings.base
        assert path is not None
        self.base_fingerprint = fingerprint(model.kept_model())
        of_chief = exchange(self.base_fingerprint, self.strategy)[0]

        def check() -> None:
            began_with = self.folder.read()["base"]["fingerprint"] if goes_on else of_chief
            check_fingerprint(path, self.base_fingerprint, began_with)
            self.task.check_data(self.data, path, self.base)

        on_all(self.strategy, check, "use the pretrained model")

    def _attach_reference(self, model: TrainingStep, progress: Progress) -> None:
        """Attach the log-probabilities under the initial model to the pairs."""
        assert isinstance(self.data, PreferenceData) and isinstance(model, PreferenceTuning)
        folder = self.folder.reference
        of = {
            "data": self.data.digest,
            "base": self.base_fingerprint,
            "sequence_length": self.config.sequence_length,
        }
        write = functools.partial(
            write_reference,
            self.data,
            model,
            folder,
            of=of,
            batch_size=self.batch.rows_per_micro_batch,
            untuned=progress.step == 0,
            show_progress=self.verbose,
        )
        on_chief(self.strategy, write, "write the reference")
        on_all(self.strategy, lambda: read_state(folder) and None, "read the reference")
        self.data = read_reference(self.data, folder, of)

    def _validation(self, model: TrainingStep) -> Any:
        config = self.config
        if self.data.validation.num_tokens < 2:
            if config.patience is not None:
                raise ConfigError(
                    f"patience counts validations, but {self.data.folder} has no validation text; "
                    "prepare it with a validation_fraction, or leave out patience"
                )
            warnings.warn(
                f"{self.data.folder} has no validation text; the last weights are kept instead of "
                "the best",
                stacklevel=2,
            )
            return None
        steps = self._rows.num_validation_batches
        rows = self._rows.validation(steps)
        names = ("loss", *model.step_metrics)

        def validate() -> dict[str, float]:
            logs = model.evaluate(rows, steps=steps, verbose=0, return_dict=True)
            return {name: float(logs[name]) for name in names}

        return validate

    def _write_settings(self) -> None:
        began_with = {}
        if self.settings.base is not None:
            path = base_path(self.settings.base)
            began_with = {"base": {"path": path, "fingerprint": self.base_fingerprint}}
        self.folder.write(
            {
                "tfllm": __version__,
                "tensorflow": tf.__version__,
                "model": to_dict(self.model_config),
                "training": to_dict(self.config),
                **began_with,
                "task": {"name": self.task.name},
                "data": {
                    "folder": str(Path(self.data.folder).resolve()),
                    "digest": self.data.digest,
                    "notes": self.data.notes(self.config.sequence_length),
                },
            }
        )

    def _finished(
        self,
        model: TrainingStep,
        progress: Progress,
        callback: RunCallback,
        interruption: Interruption,
    ) -> TrainedRun:
        best = progress.best_validation_loss
        if self.worker == 0 and not callback.interrupted:
            best = restore_best(model, progress, self.checkpoints)
        # The results of a run that was already finished.
        before = self.folder.read().get("result", {}) if self.worker == 0 else {}
        throughput = callback.throughput
        trained = model.kept_model()
        has_adapter = getattr(trained, "adapter", None) is not None and not callback.interrupted
        run = TrainedRun(
            folder=self.folder.path,
            model_folder=None if callback.interrupted else self.folder.model,
            adapter_folder=self.folder.adapter if has_adapter else None,
            model=trained,
            step=progress.step,
            num_parameters=trained.count_params(),
            num_trained=num_trained(trained),
            tokens_per_second=throughput.tokens_per_second or before.get("tokens_per_second", 0.0),
            flops_utilization=throughput.flops_utilization or before.get("flops_utilization", 0.0),
            precision=self.config.precision,
            validation_loss=None if math.isinf(best) else best,
            interrupted_by=(interruption.signal or "SIGTERM") if callback.interrupted else None,
            batch=self.batch,
            skipped_steps=progress.step - num_updates(model),
            time_shares=throughput.shares,
            is_chief=self.worker == 0,
            is_log_loss=model.is_log_loss,
            validation_metrics=callback.validation_metrics,
            history=history_of(progress.history),
            stopped_early=progress.stopped,
            task_metrics=(
                self.task.task_metrics(trained, self.data)
                if self.worker == 0 and not callback.interrupted
                else ()
            ),
        )
        if self.worker == 0 and not callback.interrupted:
            write_finished(
                run,
                self.task,
                self.folder,
                self.data,
                self.base,
                self.settings,
                num_tokens=progress.tokens,
            )
        exchange("finished", self.strategy)  # no worker exits before all files are written
        return run
