"""Restore a run from its last complete checkpoint, the same on every worker."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfllm.config import TrainingConfig
from tfllm.distribution.agreement import on_all, on_chief
from tfllm.training.checkpoints.checkpoints import CheckpointError, Checkpoints, Progress
from tfllm.training.checkpoints.model_state import restore_state


def restore_last_good(
    model: keras.Model, checkpoints: Checkpoints, strategy: tf.distribute.Strategy
) -> Progress:
    """Restore the model from the last readable checkpoint; every worker must call this.

    The chief decides which checkpoint that is, renames damaged ones and warns about them.

    Args:
        model: the model, built, and compiled with an optimizer that is built.
        checkpoints: checkpoints of the run.
        strategy: strategy of the run.

    Returns:
        Progress of the run; that of its start if it ended before its first checkpoint.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    found: dict[int, Any] = {}  # so that the chief does not read a checkpoint twice

    def last_good() -> dict[str, Any] | None:
        checkpoints.recover()
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(checkpoints.steps()):
            try:
                found[step] = checkpoints.read(step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for other, reason in damaged:
                warnings.warn(
                    f"{reason}; it was renamed to {checkpoints.set_aside(other).name}, and the run "
                    f"continues from step {step}",
                    stacklevel=2,
                )
            progress = found[step][1]
            if progress.best_step not in (None, *checkpoints.steps()):
                # The best one was deleted when a better one was saved, which is now damaged.
                measured = progress.validation_loss
                progress.best_step = None if measured is None else step
                progress.best_validation_loss = math.inf if measured is None else measured
            return dataclasses.asdict(progress)
        if damaged:
            raise CheckpointError(f"no checkpoint can be read: {damaged[0][1]}; start a new run")
        return None

    said = on_chief(strategy, last_good, "read a checkpoint")
    if said is None:
        return Progress()
    progress = Progress(**said)

    def restore() -> None:
        state = (found.get(progress.step) or checkpoints.read(progress.step))[0]
        restore_state(model, state, where=str(checkpoints.path(progress.step)))

    on_all(strategy, restore, f"read the checkpoint of step {progress.step}")
    return progress


def restore_best(model: keras.Model, progress: Progress, checkpoints: Checkpoints) -> float:
    """Load the weights of the best validation into the model, unless they are the last ones.

    Args:
        model: model with the weights of the last step.
        progress: progress of the run.
        checkpoints: checkpoints of the run.

    Returns:
        The validation loss of the weights that the model then has; infinite if there was no
        validation.
    """
    if progress.best_step in (None, progress.step):
        return progress.best_validation_loss
    try:
        state, _ = checkpoints.read(progress.best_step)
        where = str(checkpoints.path(progress.best_step))
        restore_state(model, state, where=where, optimizer=False)
    except CheckpointError as error:
        warnings.warn(f"{error}; the model has the last weights instead", stacklevel=2)
        return math.inf if progress.validation_loss is None else progress.validation_loss
    return progress.best_validation_loss


def leave_end_out(
    progress: Progress,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    strategy: tf.distribute.Strategy,
) -> None:
    """Undo what the end of a run added to its progress, when the run is made longer.

    That is the mark that it has stopped, and its last validation if none would have been due at
    that step. Every worker must call this.

    Args:
        progress: progress at the last checkpoint; it is changed.
        config: training settings of the run.
        checkpoints: checkpoints of the run.
        strategy: strategy of the run.
    """
    progress.stopped = False
    every, size = config.validate_every, config.steps_per_execution
    step, history = progress.step, progress.history
    if not history or history[-1]["step"] != step or step // every > (step - size) // every:
        return
    *kept, last = history
    progress.history = kept
    progress.loss_steps = int(step - (kept[-1]["step"] if kept else 0))
    progress.loss_sum = last["loss"] * progress.loss_steps
    progress.validation_loss = None
    if progress.best_step != step:
        return
    losses = {int(entry["step"]): entry["val_loss"] for entry in kept if "val_loss" in entry}
    best = min(losses, key=losses.__getitem__, default=None)

    def is_kept() -> bool:
        return best is None or best in checkpoints.steps()

    if on_chief(strategy, is_kept, "look for the best checkpoint"):
        progress.best_step = best
        progress.best_validation_loss = math.inf if best is None else losses[best]
        return
    warnings.warn(
        f"the best weights so far are those of step {step}, the end of the shorter run, where a "
        f"longer run would not have validated; they count as the best, since the checkpoint of "
        f"step {best} was not kept",
        stacklevel=2,
    )
