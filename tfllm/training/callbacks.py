"""Callback of a run that logs, validates, writes checkpoints and stops the run."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfllm.charts.number_format import memory_size, percentage, quantity
from tfllm.training.checkpoints.background_checkpoints import BackgroundCheckpoints
from tfllm.training.checkpoints.checkpoints import Progress
from tfllm.training.checkpoints.model_state import state_of
from tfllm.training.interruption import Interruption
from tfllm.training.run_writer import RunWriter
from tfllm.training.throughput import Throughput
from tfllm.training.user_callbacks import UserCallbacks, waited

_LOG_SECONDS = 1.0
"""minimum time between two lines of the logs"""
_MOST_SKIPPED = 50
"""consecutive updates that may be skipped, because float16 overflowed, before the run ends"""


class LossIsNaN(RuntimeError):
    """The loss or the weights are not finite; the last good checkpoint is kept."""


class RunCallback(keras.callbacks.Callback):
    """Tracks a run's progress, and logs, validates and writes checkpoints when they are due.

    Every worker of a run has such a callback, and all of them make the same decisions. Only that of
    the chief has a writer, and only the chief writes checkpoints.

    Args:
        checkpoints: checkpoints of the run.
        progress: progress of the run; updated after each step.
        throughput: counts time and tokens.
        writer: writer of the logs; None on workers other than the chief.
        total_steps: number of steps of the run.
        steps_per_execution: the value that the model was compiled with.
        validate: returns the validation "loss" and further metrics; None for no validation.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        interruption: notes signals that ask the run to stop.
        patience: number of validations in a row without a better loss after which the run ends;
            None: never.
        users: the user's callbacks; only on the chief.
        agreed: takes whether this worker wants to stop, and returns whether any worker does; every
            worker calls it after each validation.
    """

    def __init__(
        self,
        checkpoints: BackgroundCheckpoints,
        progress: Progress,
        throughput: Throughput,
        writer: RunWriter | None,
        *,
        total_steps: int,
        steps_per_execution: int,
        validate: Callable[[], dict[str, float]] | None,
        validate_every: int,
        checkpoint_every: int,
        interruption: Interruption,
        patience: int | None = None,
        users: UserCallbacks | None = None,
        agreed: Callable[[bool], bool] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.progress = progress
        self.throughput = throughput
        self.writer = writer
        self.total_steps = total_steps
        self.steps_per_execution = steps_per_execution
        self.validate = validate
        self.validate_every = validate_every
        self.checkpoint_every = checkpoint_every
        self.interruption = interruption
        self.patience = patience
        self.users = users
        self.agreed = agreed
        self.interrupted = False
        self._compiled = False
        self._saved_step = progress.step
        self._last_line = -math.inf
        self._voted = False
        self._skipped_in_a_row = 0
        self._updates = 0
        self.wants_to_stop = False
        self.validation_metrics: dict[str, float] = {}

    def validate_now(self) -> None:
        """Measure the validation loss, and save a checkpoint if it is the best so far.

        This completes an entry of the history, and an epoch of the user's callbacks.
        """
        progress = self.progress
        progress.validation_due = False
        found: dict[str, float] = {}
        best = False
        if self.validate is not None:
            if self.users:
                self.users.validation_begins()
            with self.throughput.counted("validation"):
                found = dict(self.validate())
            best = self._validated(dict(found))
            if self.users:
                self.users.validated(found)
        self._end_epoch(found)
        if self._saved_step == progress.step:
            if self.writer:
                with self.throughput.counted("checkpoint"):
                    self.checkpoints.update(progress)
        elif best or progress.stopped:
            self._checkpoint()

    def _validated(self, metrics: dict[str, float]) -> bool:
        """Log the results of a validation; returns whether its loss is the best so far."""
        progress = self.progress
        progress.validation_loss = loss = metrics.pop("loss")
        self.validation_metrics = metrics
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(f"the validation loss is {loss}"))
        if self.writer:
            if self.model.is_log_loss:
                metrics = {"perplexity": exp(loss), **metrics}
            named = {f"validation_{name}": value for name, value in metrics.items()}
            self.writer.log({"validation_loss": loss, **named})
            others = "".join(f", {name} {value:.2f}" for name, value in metrics.items())
            self.writer.say(f"step {progress.step}: validation loss {loss:.4f}{others}")
        best = loss < progress.best_validation_loss
        if best:
            progress.best_validation_loss, progress.best_step = loss, progress.step
        return best

    def _end_epoch(self, found: dict[str, float]) -> None:
        """Add an entry to the history, and end the run if a callback or patience asks for it."""
        progress = self.progress
        if not progress.loss_steps:  # a validation was due in a run of an older version
            return
        entry = {"step": float(progress.step), "loss": progress.loss_sum / progress.loss_steps}
        entry |= {f"val_{name}": value for name, value in found.items()}
        if self.model.is_log_loss:
            entry["perplexity"] = exp(entry["loss"])
            if found:
                entry["val_perplexity"] = exp(found["loss"])
        epoch = len(progress.history)
        progress.history = [*progress.history, entry]
        progress.loss_sum, progress.loss_steps = 0.0, 0
        if self.users:
            self.users.epoch_end(epoch, {n: v for n, v in entry.items() if n != "step"})
        wanted = self.wants_to_stop or bool(self.users and self.model.stop_training)
        if self.agreed is not None:
            wanted = self.agreed(wanted)
        ran_out = self.patience is not None and waited(progress.history) >= self.patience
        if (wanted or ran_out) and progress.step < self.total_steps:
            progress.stopped = True
            self.model.stop_training = True
            if self.writer:
                who = "a callback" if wanted else f"patience={self.patience}"
                self.writer.say(f"step {progress.step}: {who} ends the run")
        if self.users:
            progress.callbacks = self.users.state()

    # ---- Keras' hooks

    def on_train_begin(self, logs: Any = None) -> None:
        """Note that the first call of each `fit` traces the graph."""
        self._compiled = False

    def on_train_end(self, logs: Any = None) -> None:
        """Log the totals once more, now including the time after the last step."""
        if self.writer:
            self.writer.log(self.throughput.totals())

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the clock; tell the other workers if a signal was received."""
        votes = getattr(self.model, "votes_to_stop", None)
        if self.interruption.signal and votes is not None and not self._voted:
            self._voted = True
            votes.assign(1.0)
        if self.users:
            self.users.batch_begin(self.progress.step, len(self.progress.history))
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count and log the step, and save or validate if that is due."""
        loss = float(logs["loss"])  # waits for the step
        seconds = time.perf_counter() - self._start
        progress = self.progress
        # Not the optimizer's count: with float16 it skips the batches whose gradients overflow.
        steps = min(self.steps_per_execution, self.total_steps - progress.step)
        progress.step += steps
        if not math.isfinite(loss):
            raise LossIsNaN(self._nan_message(f"the loss is {loss}"))
        self._count_skipped()
        progress.tokens += steps * self.throughput.tokens_per_step
        progress.validation_loss = None
        progress.loss_sum += loss * steps
        progress.loss_steps += steps
        ends = self._user_ends(loss, logs) or progress.step == self.total_steps
        progress.validation_due = self._due(self.validate_every, steps) or ends
        rates = {}
        if self._compiled:  # the first call traces and compiles
            waited = float(logs.get("input_seconds", 0.0))
            rates = self.throughput.count_step(steps, seconds, waited)
        else:
            self.throughput.count_tracing(seconds)
        self._compiled = True
        if self.writer:
            values = {"loss": loss, **{name: float(logs[name]) for name in self.model.step_metrics}}
            if self.model.is_log_loss:
                values["perplexity"] = exp(loss)
            self._show(values, rates, logs, steps)
            self.checkpoints.check()  # raises an error of the background thread
        if self._is_to_stop(logs):  # the resumed run makes up for a validation that is due
            self.interrupted = True
            self.model.stop_training = True
            self._checkpoint()
            return
        # Save first, since a validation takes long and may fail.
        if self._due(self.checkpoint_every, steps) or ends:
            self._checkpoint()
        if progress.validation_due:
            self.validate_now()

    # ---- implementation of the hooks

    def _user_ends(self, loss: float, logs: Any) -> bool:
        """Whether one of the user's callbacks ends the run at this step.

        With several workers, the run ends at the next validation, where they agree on it.
        """
        if not self.users:
            return False
        named = {name: float(logs[name]) for name in self.model.step_metrics if name in logs}
        self.users.batch_end(self.progress.step - 1, {"loss": loss, **named})
        if self.agreed is None:
            return bool(self.model.stop_training)
        self.wants_to_stop = self.wants_to_stop or bool(self.model.stop_training)
        self.model.stop_training = False  # otherwise only this worker would stop
        return False

    def _is_to_stop(self, logs: Any) -> bool:
        """Whether a signal was received; with several workers, whether all know of it."""
        if getattr(self.model, "votes_to_stop", None) is None:
            return bool(self.interruption.signal)
        return float(logs["votes_to_stop"]) > 0

    def _due(self, every: int, steps: int) -> bool:
        step = self.progress.step
        return step // every > (step - steps) // every

    def _show(
        self, values: dict[str, float], rates: dict[str, float], logs: Any, steps: int
    ) -> None:
        assert self.writer
        now = time.monotonic()
        if now - self._last_line < _LOG_SECONDS and self.progress.step != self.total_steps:
            self.writer.show(None, steps)
            return
        self._last_line = now
        if "gradient_norm" in logs:
            values["gradient_norm"] = float(logs["gradient_norm"])
            if not math.isfinite(values["gradient_norm"]):  # this update was skipped (float16)
                del values["gradient_norm"]
        skipped = self.progress.step - num_updates(self.model)
        values |= {"learning_rate": self._learning_rate(), "skipped_steps": float(skipped)}
        self.throughput.begin_stretch()
        values |= {**rates, **self.throughput.totals()}
        self.writer.show(self._in_a_line(values), steps)
        self.writer.log(values)

    def _in_a_line(self, values: dict[str, float]) -> str:
        shown = [f"loss {values['loss']:.3f}"]
        shown += [f"{name} {values[name]:.2f}" for name in self.model.step_metrics]
        if "gradient_norm" in values:
            shown.append(f"norm {values['gradient_norm']:.2f}")
        if "tokens_per_second" in values:
            rate = f"{quantity(values['tokens_per_second'])} tokens/s"
            if self.throughput.replicas > 1:
                rate += f" ({quantity(values['tokens_per_second_per_replica'])} per replica)"
            shown += [rate, f"{percentage(values['flops_utilization'])} of peak"]
        total = values["seconds"]
        shown += [
            f"{kind} {percentage(values[f'{kind}_seconds'] / total)}"
            for kind in ("input", "checkpoint")
        ]
        if values["skipped_steps"]:
            shown.append(f"{values['skipped_steps']:.0f} skipped")
        return ", ".join([*shown, memory_size(values["memory_bytes"])])

    def _count_skipped(self) -> None:
        """Stop the run if float16 skips every update: its loss scale is or soon will be 0."""
        if inner_optimizer(self.model) is self.model.optimizer:
            return
        updates = num_updates(self.model)
        same = updates == self._updates
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if same else 0
        self._updates = updates
        if self._skipped_in_a_row >= _MOST_SKIPPED:
            what = f"the gradients of {_MOST_SKIPPED} consecutive batches overflow float16"
            raise LossIsNaN(self._nan_message(what))

    def _learning_rate(self) -> float:
        """The learning rate of the last update."""
        last = max(num_updates(self.model) - 1, 0)
        return float(inner_optimizer(self.model)._learning_rate(last))

    def _checkpoint(self) -> None:
        if self._saved_step == self.progress.step:
            return
        with self.throughput.counted("checkpoint"):
            self.checkpoints.wait()
            # The loss was computed before this step's update, so check the weights, too.
            weights = [tf.convert_to_tensor(v) for v in self.model.trainable_weights]
            if not all(bool(tf.reduce_all(tf.math.is_finite(w))) for w in weights):
                raise LossIsNaN(self._nan_message("the weights are not finite"))
            if self.users:
                self.progress.callbacks = self.users.state()
            # If the optimizer's state is sharded over the workers, all of them must take part.
            if self.writer or getattr(inner_optimizer(self.model), "shards", False):
                state = state_of(self.model)
                if self.writer:
                    self.checkpoints.save(state, self.progress)
        self._saved_step = self.progress.step

    def _nan_message(self, what: str) -> str:
        return (
            f"{what} at step {self.progress.step}; training stopped. {self._last_checkpoint()} "
            f"({self.checkpoints.folder}). Start again in another folder with a lower learning "
            "rate, a longer warmup or precision=float32"
        )

    def _last_checkpoint(self) -> str:
        with contextlib.suppress(OSError):  # the error being raised is more informative
            self.checkpoints.wait()
        steps = self.checkpoints.steps()
        if not steps:
            return "There is no checkpoint yet"
        return f"The last good checkpoint is that of step {steps[-1]}"


def exp(x: float) -> float:
    """e to the power of x, capped at about 1e38, so that JSON and float32 can hold it."""
    return math.exp(min(x, 88.0))


def inner_optimizer(model: keras.Model) -> Any:
    """The optimizer itself, without the wrapper that scales the loss for float16."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def num_updates(model: keras.Model) -> int:
    """Number of updates of the weights so far."""
    return int(tf.convert_to_tensor(inner_optimizer(model).iterations))
