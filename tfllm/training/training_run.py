"""The verb `train`: from prepared data to a run folder with a finished model."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm import __version__
from tfllm.config import ConfigError, ModelConfig, TrainingConfig, build, to_dict
from tfllm.data import PreparedData, rows_dataset
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.schedules import WarmupSchedule
from tfllm.pretrained import save
from tfllm.training.callbacks import RunCallback, exp
from tfllm.training.checkpoints import CheckpointError, Checkpoints, Progress
from tfllm.training.flops import flops_per_token
from tfllm.training.interruption import Interruption
from tfllm.training.precision import choose_precision, dtype_policy, matmul_peak
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import digest, fitted, resumed, steps_of


@dataclass(frozen=True)
class TrainedRun:
    """What a run gave."""

    folder: Path
    """of the run"""
    model_folder: Path | None
    """the finished model; None where the run was interrupted"""
    model: CausalLM
    """with the weights of the best validation, or of the last step"""
    step: int
    """updates of the weights"""
    num_parameters: int
    tokens_per_second: float
    flops_utilization: float
    """share of the measured matmul peak"""
    precision: str
    validation_loss: float | None
    """the best, natural logarithm a token; None without validation data"""
    interrupted_by: str | None
    """the signal that ended the run early"""

    @property
    def validation_perplexity(self) -> float | None:
        """exp of the best validation loss."""
        return None if self.validation_loss is None else exp(self.validation_loss)


def train(
    data: str | Path | PreparedData,
    run: str | Path,
    model: str | ModelConfig | None = None,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> TrainedRun:
    """Train a causal language model through `model.fit`.

    Ctrl-C and SIGTERM let the step under way finish, save a checkpoint and return.

    Args:
        data: what `tfllm.prepare` wrote.
        run: the run's folder, a new one unless `resume`.
        model: a preset's name, whose vocabulary becomes the tokenizer's, or an architecture, whose
            vocabulary may be larger. The context becomes at least the sequence length. Default:
            "llama-4m". A resumed run has its own.
        config: settings of the training; default: `TrainingConfig()`.
        resume: go on from the last checkpoint in `run`, with its settings.
        verbose: draw a progress bar.
        settings: fields of `TrainingConfig`, over `config`.

    Returns:
        the run, with the finished model.

    Raises:
        ConfigError: a setting is unknown or out of range, or differs from the resumed run's.
        FileExistsError: `run` holds a run already, and `resume` is false.
        RuntimeError: another process trains in `run`.
        LossIsNaN: the loss or the weights are not finite.
        CheckpointError: none of the checkpoints of a resumed run can be read.
        OSError: the disk is full or cannot be written to; what was saved stays.
        ValueError: the training text is shorter than one row.
    """
    if not isinstance(data, PreparedData):
        data = PreparedData.open(data)
    folder = RunFolder(run)
    folder.open(resume=resume)
    try:
        if resume:
            model_config, config = resumed(folder, data, model, config, settings)
        else:
            config = build(TrainingConfig, {**to_dict(config or TrainingConfig()), **settings})
            model_config = fitted(model, data, config)
            measured = {"precision": choose_precision(config.precision)}
            config = build(TrainingConfig, {**to_dict(config), **measured})
        return _Run(folder, data, model_config, config, verbose).train(resume=resume)
    finally:
        folder.close()


def _check_replicas(batch_size: int) -> None:
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if batch_size % replicas:
        raise ConfigError(
            f"batch_size counts the rows of all replicas and must be divisible by their number "
            f"({replicas}); received {batch_size}; {-(-batch_size // replicas) * replicas} would do"
        )


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        folder: RunFolder,
        data: PreparedData,
        model_config: ModelConfig,
        config: TrainingConfig,
        verbose: bool,
    ) -> None:
        self.folder = folder
        self.data = data
        self.config = config
        self.model_config = model_config
        self.verbose = verbose
        self.checkpoints = Checkpoints(folder.checkpoints, config.keep_checkpoints)
        self.total_steps = config.steps or steps_of(config, data)
        _check_replicas(config.batch_size)
        self.peak = matmul_peak(config.precision)

    def train(self, *, resume: bool) -> TrainedRun:
        config = self.config
        self._rows("train", num_batches=1)  # finds what is wrong before a file is written
        model = self._model()
        progress = Progress()
        if resume:
            progress = self._restore(model)
            self.folder.trim_metrics(progress.step)
        else:
            self._write_settings()
        with Interruption() as interruption:
            callback = RunCallback(
                self.folder,
                self.checkpoints,
                progress,
                total_steps=self.total_steps,
                steps_per_execution=config.steps_per_execution,
                tokens_per_step=config.batch_size * config.sequence_length,
                flops_per_token=flops_per_token(self.model_config, config.sequence_length),
                peak=self.peak,
                validate=self._validation(model),
                validate_every=config.validate_every,
                checkpoint_every=config.checkpoint_every,
                interruption=interruption,
                verbose=self.verbose,
            )
            left = self.total_steps - progress.step
            with callback:
                if progress.validation_due:  # the interrupted run left it out
                    callback.validate_now()
                if left:
                    rows = self._rows("train", start_step=progress.step, num_batches=left)
                    # The rows come shuffled.
                    model.fit(rows, callbacks=[callback], verbose=0, shuffle=False)
        return self._finished(model, progress, callback, interruption)

    def _model(self) -> CausalLM:
        config = self.config
        model = CausalLM(
            self.model_config,
            seed=config.seed,
            rematerialize=config.rematerialize,
            dtype=dtype_policy(config.precision),
        )
        warmup = config.warmup_steps
        if warmup is None:
            warmup = min(max(10, self.total_steps // 50), self.total_steps)
        schedule = WarmupSchedule(
            config.learning_rate,
            self.total_steps,
            min(warmup, self.total_steps),
            config.schedule,
            config.decay_fraction,
            config.final_learning_rate,
        )
        model.compile(
            AdamW(
                schedule,
                config.weight_decay,
                beta_1=config.beta_1,
                beta_2=config.beta_2,
                epsilon=config.epsilon,
                global_clipnorm=config.clip_norm,
            ),
            steps_per_execution=config.steps_per_execution,
            jit_compile=config.jit_compile,
        )
        model.gradient_accumulation = config.gradient_accumulation
        model.optimizer.build(model.trainable_variables)
        return model

    def _rows(self, split: str, **options: Any) -> tf.data.Dataset:
        config = self.config
        return rows_dataset(
            self.data,
            split,  # type: ignore[arg-type]
            sequence_length=config.sequence_length,
            batch_size=config.batch_size,
            seed=config.seed,
            separate_documents=config.separate_documents,
            **options,
        )

    def _validation(self, model: CausalLM) -> Any:
        if self.data.validation.num_tokens < 2:
            warnings.warn(
                f"{self.data.folder} has no validation text; the last weights are kept, not the "
                "best",
                stacklevel=2,
            )
            return None
        num_batches = self.config.validation_batches or None
        rows = self._rows("validation", shuffle=False, repeat=False, num_batches=num_batches)
        return lambda: float(model.evaluate(rows, verbose=0, return_dict=True)["loss"])

    def _restore(self, model: CausalLM) -> Progress:
        """Put the last checkpoint that can be read into the model."""
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self.checkpoints.steps()):
            try:
                progress = self.checkpoints.restore(model, step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for other, reason in damaged:
                warnings.warn(
                    f"{reason}; it is now {self.checkpoints.set_aside(other).name}, and the run "
                    f"goes on from step {step}",
                    stacklevel=2,
                )
            if progress.best_step not in (None, *self.checkpoints.steps()):
                # The best of that time was deleted for a better one that is now damaged.
                measured = progress.validation_loss
                progress.best_step = None if measured is None else step
                progress.best_validation_loss = math.inf if measured is None else measured
            return progress
        if damaged:
            raise CheckpointError(f"no checkpoint can be read: {damaged[0][1]}; start a new run")
        return Progress()  # it ended before its first checkpoint

    def _write_settings(self) -> None:
        self.folder.write(
            {
                "tfllm": __version__,
                "tensorflow": tf.__version__,
                "model": to_dict(self.model_config),
                "training": to_dict(self.config),
                "data": {
                    "folder": str(Path(self.data.folder).resolve()),
                    "digest": digest(self.data),
                },
            }
        )

    def _finished(
        self, model: CausalLM, progress: Progress, callback: RunCallback, interruption: Interruption
    ) -> TrainedRun:
        best = progress.best_validation_loss
        if not callback.interrupted and progress.best_step not in (None, progress.step):
            try:
                self.checkpoints.restore(model, progress.best_step, optimizer=False)
            except CheckpointError as error:
                warnings.warn(f"{error}; the model has the last weights instead", stacklevel=2)
                best = math.inf if progress.validation_loss is None else progress.validation_loss
        before = self.folder.read().get("result", {})  # of a run that had finished already
        run = TrainedRun(
            folder=self.folder.path,
            model_folder=None if callback.interrupted else self.folder.model,
            model=model,
            step=progress.step,
            num_parameters=model.count_params(),
            tokens_per_second=callback.tokens_per_second or before.get("tokens_per_second", 0.0),
            flops_utilization=callback.flops_utilization or before.get("flops_utilization", 0.0),
            precision=self.config.precision,
            validation_loss=None if math.isinf(best) else best,
            interrupted_by=interruption.signal if callback.interrupted else None,
        )
        if callback.interrupted:
            return run
        summary = {
            "sequence_length": self.config.sequence_length,
            "steps": progress.step,
            "tokens": progress.tokens,
            "validation_loss": run.validation_loss,
            "validation_perplexity": run.validation_perplexity,
            "tokens_per_second": run.tokens_per_second,
            "flops_utilization": run.flops_utilization,
        }
        save(model, self.folder.model, self.data.tokenizer, training_summary=summary)
        self.folder.write({**self.folder.read(), "result": summary})
        return run
