"""What happens beside the steps of a run: progress, logs, validation, checkpoints, stopping."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
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
    """Keeps a run's progress, logs, validations and checkpoints, while it is entered (`with`).

    Args:
        folder: of the run.
        checkpoints: of the run.
        progress: where the run stands; kept up to date.
        total_steps: of the run.
        steps_per_execution: as the model was compiled with.
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
        steps_per_execution: int,
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
        self.steps_per_execution = steps_per_execution
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
        self._compiled = False
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

    def __enter__(self) -> RunCallback:
        """Open the logs."""
        self._metrics = open(self.folder.metrics, "a", encoding="utf-8")
        self._board = tf.summary.create_file_writer(str(self.folder.tensorboard))
        self._bar = tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.verbose,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the logs."""
        self._bar.close()
        for log in (self._metrics, self._board):
            try:
                log.close()
            except (OSError, tf.errors.OpError) as lost:
                if error is None:  # else the first error says more
                    raise self._log_error(lost) from lost

    def validate_now(self) -> None:
        """Measure the validation loss, and save a checkpoint if it is the best."""
        progress = self.progress
        progress.validation_due = False
        if self.validate is None:
            return
        progress.validation_loss = loss = self.validate()
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(f"the validation loss is {loss}"))
        self._log({"validation_loss": loss, "validation_perplexity": exp(loss)})
        if self.verbose:
            tqdm.write(
                f"step {progress.step}: validation loss {loss:.4f}, perplexity {exp(loss):.2f}",
                file=sys.stderr,
            )
        best = loss < progress.best_validation_loss
        if best:
            progress.best_validation_loss, progress.best_step = loss, progress.step
        if self._saved_step == progress.step:
            self.checkpoints.update(progress)
        elif best:
            self._checkpoint()

    # ---- Keras' hooks

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, log, and do what is due at this step."""
        loss = float(logs["loss"])  # waits for the step
        seconds = time.perf_counter() - self._start
        progress = self.progress
        # Not the optimizer's count: with float16 it skips the batches whose gradients overflow.
        steps = min(self.steps_per_execution, self.total_steps - progress.step)
        progress.step += steps
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(f"the loss is {loss}"))
        progress.tokens += steps * self.tokens_per_step
        progress.validation_loss = None
        progress.validation_due = (
            self._due(self.validate_every, steps) or progress.step == self.total_steps
        )
        if self._compiled:  # the first call traces and compiles
            self._rates[0].append(steps * self.tokens_per_step)
            self._rates[1].append(seconds)
        self._show(loss, steps, seconds)
        self._compiled = True
        if self.interruption.signal:  # a validation that is due is made up for by the resumed run
            self.interrupted = True
            self.model.stop_training = True
            self._checkpoint()
            return
        if progress.validation_due:
            self.validate_now()
        if self._due(self.checkpoint_every, steps) or progress.step == self.total_steps:
            self._checkpoint()

    # ---- what they do

    def _due(self, every: int, steps: int) -> bool:
        step = self.progress.step
        return step // every > (step - steps) // every

    def _show(self, loss: float, steps: int, seconds: float) -> None:
        values = {
            "loss": loss,
            "perplexity": exp(loss),
            "learning_rate": self._learning_rate(),
        }
        shown = f"loss {loss:.3f}, perplexity {exp(loss):.1f}"
        if self._compiled:
            rate = steps * self.tokens_per_step / seconds
            utilization = rate * self.flops_per_token / self.peak
            values |= {"tokens_per_second": rate, "flops_utilization": utilization}
            shown += f", {rate / 1000:.1f}k tokens/s, {utilization:.0%} of peak"
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(steps)
        now = time.monotonic()
        if now - self._last_line >= _LOG_SECONDS or self.progress.step == self.total_steps:
            self._last_line = now
            self._log(values)

    def _learning_rate(self) -> float:
        """That of the last update."""
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return float(inner._learning_rate(tf.maximum(tf.cast(inner.iterations, tf.int64) - 1, 0)))

    def _log(self, values: dict[str, float]) -> None:
        line = {"step": self.progress.step, "tokens": self.progress.tokens, **values}
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
            with self._board.as_default(step=self.progress.step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)
        except (OSError, tf.errors.OpError) as error:
            raise self._log_error(error) from error

    def _log_error(self, error: Exception) -> OSError:
        return OSError(
            f"the logs in {self.folder.path} could not be written: {error}. "
            f"{self._last_checkpoint()}; make room and train with resume"
        )

    def _checkpoint(self) -> None:
        if self._saved_step == self.progress.step:
            return
        # The loss was that of the weights before this step's update.
        if not all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in self.model.trainable_weights):
            raise LossIsNaN(self._nan_message("the weights are not finite"))
        self.checkpoints.save(self.model, self.progress)
        self._saved_step = self.progress.step

    def _nan_message(self, what: str) -> str:
        return (
            f"{what} at step {self.progress.step}; training stopped. {self._last_checkpoint()} "
            f"({self.checkpoints.folder}). Start again with a lower learning rate, a longer "
            "warm-up or precision=float32"
        )

    def _last_checkpoint(self) -> str:
        steps = self.checkpoints.steps()
        if not steps:
            return "There is no checkpoint yet"
        return f"The last good checkpoint is that of step {steps[-1]}"


def exp(x: float) -> float:
    """e to the x, at most about 1e38: a perplexity that JSON and float32 can hold."""
    return math.exp(min(x, 88.0))
