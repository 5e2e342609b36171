"""The verb `train`: from prepared data to a run folder with a finished model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfllm import __version__
from tfllm.config import ConfigError, ModelConfig, TrainingConfig, build, to_dict
from tfllm.data import PreparedData, rows_dataset, steps_per_epoch
from tfllm.models.causal_lm import CausalLM
from tfllm.models.presets import preset
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.schedules import WarmupSchedule
from tfllm.pretrained import save
from tfllm.training.callbacks import RunCallback
from tfllm.training.checkpoints import CheckpointError, Checkpoints, Progress
from tfllm.training.flops import flops_per_token
from tfllm.training.interruption import Interruption
from tfllm.training.precision import choose_precision, dtype_policy, matmul_peak
from tfllm.training.run_folder import RunFolder


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
        return None if self.validation_loss is None else math.exp(self.validation_loss)


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
        model: a preset's name or an architecture; its vocabulary becomes the tokenizer's, and its
            context at least the sequence length. Default: "llama-4m". A resumed run has its own.
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
        LossIsNaN: the loss is not finite.
        ValueError: the training text is shorter than one row.
    """
    if not isinstance(data, PreparedData):
        data = PreparedData.open(data)
    folder = RunFolder(run)
    folder.open(resume=resume)
    try:
        if resume:
            model_config, config = _resumed(folder, data, model, config, settings)
        else:
            config = build(TrainingConfig, {**to_dict(config or TrainingConfig()), **settings})
            config = dataclasses.replace(config, precision=choose_precision(config.precision))
            model_config = _fitted(model, data, config)
        return _Run(folder, data, model_config, config, verbose).train(resume=resume)
    finally:
        folder.close()


def _fitted(
    model: str | ModelConfig | None, data: PreparedData, config: TrainingConfig
) -> ModelConfig:
    """The architecture with the tokenizer's vocabulary and room for a row."""
    if not isinstance(model, ModelConfig):
        model = preset(model or "llama-4m", vocab_size=data.vocab_size)
    if model.vocab_size < data.vocab_size:
        model = dataclasses.replace(model, vocab_size=data.vocab_size)
    context = max(model.max_sequence_length, config.sequence_length)
    return dataclasses.replace(model, max_sequence_length=context)


def _resumed(
    folder: RunFolder,
    data: PreparedData,
    model: str | ModelConfig | None,
    config: TrainingConfig | None,
    settings: dict[str, Any],
) -> tuple[ModelConfig, TrainingConfig]:
    """The settings of the run in `folder`, after a check that nothing else is asked for."""
    saved = folder.read()
    model_config = build(ModelConfig, saved["model"])
    training = build(TrainingConfig, saved["training"])
    asked = {**(to_dict(config) if config else {}), **settings}
    for name, value in to_dict(build(TrainingConfig, asked)).items() if asked else ():
        given = name in settings or (
            config is not None and value != getattr(TrainingConfig(), name)
        )
        if given and value not in ("auto", getattr(training, name)):
            raise ConfigError(
                f"a resumed run keeps its settings: {name} is {getattr(training, name)!r} in "
                f"{folder.path}; received {value!r}"
            )
    if _digest(data) != saved["data"]["digest"]:
        raise ConfigError(
            f"the run in {folder.path} was trained on other data ({saved['data']['folder']}); "
            f"received {data.folder}"
        )
    if model is not None and _fitted(model, data, training) != model_config:
        raise ConfigError(f"the run in {folder.path} has another model; leave the model out")
    return model_config, training


def _digest(data: PreparedData) -> str:
    """Names the prepared text: the same text, tokenizer and settings have the same."""
    text = json.dumps(data.manifest, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
        per_epoch = steps_per_epoch(
            data, "train", sequence_length=config.sequence_length, batch_size=config.batch_size
        )
        self.total_steps = config.steps or max(1, math.ceil(per_epoch * config.epochs))
        self.peak = matmul_peak(config.precision)

    def train(self, *, resume: bool) -> TrainedRun:
        config = self.config
        model = self._model()
        progress = Progress(settings=to_dict(config))
        if resume:
            progress = self._restore(model)
        else:
            self._write_settings()
        with Interruption() as interruption:
            callback = RunCallback(
                self.folder,
                self.checkpoints,
                progress,
                total_steps=self.total_steps,
                tokens_per_step=config.batch_size * config.sequence_length,
                flops_per_token=flops_per_token(self.model_config, config.sequence_length),
                peak=self.peak,
                validate=self._validation(model),
                validate_every=config.validate_every,
                checkpoint_every=config.checkpoint_every,
                interruption=interruption,
                verbose=self.verbose,
            )
            if progress.step < self.total_steps:
                self._fit(model, progress, callback)
        return self._finished(model, progress, callback, interruption)

    def _fit(self, model: CausalLM, progress: Progress, callback: RunCallback) -> None:
        left = self.total_steps - progress.step
        rows = self._rows("train", start_step=progress.step, num_batches=left)
        calls = math.ceil(left / self.config.steps_per_execution)
        try:
            model.fit(
                rows,
                epochs=1,
                steps_per_epoch=left if self.config.steps_per_execution == 1 else calls,
                callbacks=[callback],
                verbose=0,
                shuffle=False,  # the rows come shuffled
            )
        except BaseException:
            callback.close()
            raise

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
        rows = self._rows("validation", shuffle=False, repeat=False).cache()
        if self.config.validation_batches:
            rows = rows.take(self.config.validation_batches)
        return lambda: float(model.evaluate(rows, verbose=0, return_dict=True)["loss"])

    def _restore(self, model: CausalLM) -> Progress:
        for step in reversed(self.checkpoints.steps()):
            try:
                return self.checkpoints.restore(model, step)
            except CheckpointError as error:
                warnings.warn(f"{error} Trying the one before.", stacklevel=2)
        return Progress(settings=to_dict(self.config))

    def _write_settings(self) -> None:
        self.folder.write(
            {
                "tfllm": __version__,
                "tensorflow": tf.__version__,
                "model": to_dict(self.model_config),
                "training": to_dict(self.config),
                "data": {
                    "folder": str(Path(self.data.folder).resolve()),
                    "digest": _digest(self.data),
                },
            }
        )

    def _finished(
        self, model: CausalLM, progress: Progress, callback: RunCallback, interruption: Interruption
    ) -> TrainedRun:
        best = progress.best_validation_loss
        run = TrainedRun(
            folder=self.folder.path,
            model_folder=None if callback.interrupted else self.folder.model,
            model=model,
            step=progress.step,
            num_parameters=model.count_params(),
            tokens_per_second=callback.tokens_per_second,
            flops_utilization=callback.flops_utilization,
            precision=self.config.precision,
            validation_loss=None if math.isinf(best) else best,
            interrupted_by=interruption.signal if callback.interrupted else None,
        )
        if callback.interrupted:
            return run
        if progress.best_step not in (None, progress.step):
            self.checkpoints.restore(model, progress.best_step, optimizer=False)
        summary = {
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
