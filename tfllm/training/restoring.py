"""Where a run goes on: the last checkpoint that is whole, the same on every worker."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfllm.distribution.agreement import on_all, on_chief
from tfllm.training.checkpoints import CheckpointError, Checkpoints, Progress
from tfllm.training.model_state import restore_state


def restore_last_good(
    model: keras.Model, checkpoints: Checkpoints, strategy: tf.distribute.Strategy
) -> Progress:
    """Put the last checkpoint that can be read into the model; every worker must call this.

    The chief decides which one that is, sets damaged ones aside, and warns of them.

    Args:
        model: built, and compiled with an optimizer that is built.
        checkpoints: of the run.
        strategy: of the run.

    Returns:
        where the run stands; at its beginning, if it ended before its first checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    found: dict[int, Any] = {}  # the chief need not read it twice

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
                    f"{reason}; it is now {checkpoints.set_aside(other).name}, and the run goes "
                    f"on from step {step}",
                    stacklevel=2,
                )
            progress = found[step][1]
            if progress.best_step not in (None, *checkpoints.steps()):
                # The best of that time was deleted for a better one that is now damaged.
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
