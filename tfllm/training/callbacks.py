"""What happens beside the steps of a run: progress, logs, validation, checkpoints, stopping."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from tfllm.training.checkpoints import Checkpoints, Progress
from tfllm.training.interruption import Interruption
from tfllm.training.precision import median_rate
from tfllm.training.run_folder import RunFolder

_LOG_SECONDS = 1.0
"""between two lines of the logs, at the least"""


class LossIsNaN(RuntimeError):
    """The loss is not a number any more; the last good checkpoint stays."""


class RunCallback(keras.callbacks.Callback):
    """Keeps a run's progress, logs, validations and checkpoints.

    Args:
        folder: of the run.
        checkpoints: of the run.
        progress: where the run stands; kept up to date.
        total_steps: of the run.
        tokens_per_step: in a batch.
        flops_per_token: of the model.
        peak: FLOP/s that the machine can do.
        validate: returns the validation loss; None for no validation.
        validate_every: steps.
        checkpoint_every: steps.
        interruption: tells when to stop.
        verbose: whether to draw a progress bar.
    """

    def __init__(
        self,
        folder: RunFolder,
        checkpoints: Checkpoints,
        progress: Progress,
        *,
        total_steps: int,
        tokens_per_step: int,
        flops_per_token: float,
        peak: float,
        validate: Callable[[], float] | None,
        validate_every: int,
        checkpoint_every: int,
        interruption: Interruption,
        verbose: bool = True,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.checkpoints = checkpoints
        self.progress = progress
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.peak = peak
        self.validate = validate
        self.validate_every = validate_every
        self.checkpoint_every = checkpoint_every
        self.interruption = interruption
        self.verbose = verbose
        self.interrupted = False
        self._rates: tuple[list[float], list[float]] = ([], [])
        self._saved_step = progress.step
        self._last_line = 0.0

    @property
    def tokens_per_second(self) -> float:
        """The median over this run's steps, without validation and checkpoints."""
        return median_rate(*self._rates)

    @property
    def flops_utilization(self) -> float:
        """Share of the measured matmul peak (MFU) at the median speed."""
        return self.tokens_per_second * self.flops_per_token / self.peak

    # ---- Keras' hooks

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the logs."""
        self._bar = tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.verbose,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )
        self._metrics = open(self.folder.metrics, "a", encoding="utf-8")  # noqa: SIM115
        self._board = tf.summary.create_file_writer(str(self.folder.tensorboard))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start, self._first = time.perf_counter(), self.progress.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, log, and do what is due at this step."""
        loss = float(logs["loss"])  # waits for the step
        seconds = time.perf_counter() - self._start
        progress = self.progress
        progress.step = int(self.model.optimizer.iterations)
        steps = progress.step - self._first
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(progress.step, loss))
        progress.tokens += steps * self.tokens_per_step
        progress.validation_loss = None
        if batch + 1 > steps:  # the first call traces and compiles
            self._rates[0].append(steps * self.tokens_per_step)
            self._rates[1].append(seconds)
        rate = steps * self.tokens_per_step / seconds
        self._show(loss, rate, steps)
        if self._due(self.validate_every, steps):
            self._validate()
        if self._due(self.checkpoint_every, steps):
            self._checkpoint()
        if self.interruption.signal:
            self.interrupted = True
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Validate and save what is not yet."""
        if not self.interrupted and self.progress.validation_loss is None:
            self._validate()
        if self._saved_step != self.progress.step:
            self._checkpoint()
        self.close()

    def close(self) -> None:
        """Close the logs."""
        self._bar.close()
        self._metrics.close()
        self._board.close()

    # ---- what they do

    def _due(self, every: int, steps: int) -> bool:
        step = self.progress.step
        return step // every > (step - steps) // every

    def _show(self, loss: float, rate: float, steps: int) -> None:
        learning_rate = float(self.model.optimizer.learning_rate)
        utilization = rate * self.flops_per_token / self.peak
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, perplexity {_exp(loss):.1f}, {rate / 1000:.1f}k tokens/s, "
            f"{utilization:.0%} of peak",
            refresh=False,
        )
        self._bar.update(steps)
        now = time.monotonic()
        if now - self._last_line >= _LOG_SECONDS or self.progress.step == self.total_steps:
            self._last_line = now
            self._log(
                {
                    "loss": loss,
                    "perplexity": _exp(loss),
                    "learning_rate": learning_rate,
                    "tokens_per_second": rate,
                    "flops_utilization": utilization,
                }
            )

    def _log(self, values: dict[str, float]) -> None:
        line = {"step": self.progress.step, "tokens": self.progress.tokens, **values}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        with self._board.as_default(step=self.progress.step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def _validate(self) -> None:
        if self.validate is None:
            return
        progress = self.progress
        progress.validation_loss = loss = self.validate()
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(progress.step, loss, "validation "))
        self._log({"validation_loss": loss, "validation_perplexity": _exp(loss)})
        if self.verbose:
            self._bar.write(
                f"step {progress.step}: validation loss {loss:.4f}, perplexity {_exp(loss):.2f}"
            )
        if loss < progress.best_validation_loss:
            progress.best_validation_loss, progress.best_step = loss, progress.step
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self._saved_step != self.progress.step:
            self.checkpoints.save(self.model, self.progress)
            self._saved_step = self.progress.step

    def _nan_message(self, step: int, loss: float, kind: str = "") -> str:
        steps = self.checkpoints.steps()
        last = (
            f"The last good checkpoint is that of step {steps[-1]}"
            if steps
            else ("There is no checkpoint yet")
        )
        return (
            f"the {kind}loss is {loss} at step {step}; training stopped. {last} "
            f"({self.checkpoints.folder}). Start again with a lower learning rate, a longer "
            "warm-up or precision=float32."
        )


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))
