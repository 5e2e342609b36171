"""The user's Keras callbacks in a run: their epochs are the intervals between validations."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import keras

from tfllm.config import ConfigError

_REFUSED: dict[type, str] = {
    keras.callbacks.BackupAndRestore: "a run saves checkpoints and resumes from them by itself",
    keras.callbacks.LearningRateScheduler: "the schedule is a setting of the run (schedule=...)",
    keras.callbacks.ReduceLROnPlateau: "the schedule is a setting of the run (schedule=...)",
}
_SIMPLE = (bool, int, float, str, type(None))


def checked_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Check that a run supports the given callbacks.

    Returns:
        The callbacks as a list.

    Raises:
        ConfigError: an object is not a Keras callback, or is one that a run does not support.
    """
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigError(
                f"callbacks must be keras.callbacks.Callback objects; received {callback!r}"
            )
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigError(
                    f"{kind.__name__} is not supported in a run: {reason}; leave it out"
                )
    return list(given)


class UserCallbacks:
    """The user's callbacks in a run, called as `model.fit` would call them.

    An epoch ends with each validation (or, without validation data, where one would be):
    `on_epoch_end` receives the mean `loss` of its steps and the results of the validation as
    `val_loss` and so on. Epochs and steps are counted from the start of the run, also if it was
    resumed. In a resumed run, the simple attributes of a callback (numbers and strings), such as
    how long `EarlyStopping` has waited, have the values that they had at the checkpoint.

    Args:
        callbacks: callbacks that `checked_callbacks` returned.
        model: the model that is trained.
        epochs: number of epochs of the whole run.
        steps: number of steps in an epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        *,
        epochs: int,
        steps: int,
    ) -> None:
        self.callbacks = list(callbacks)
        self._list = keras.callbacks.CallbackList(self.callbacks, model=model)
        self._list.set_params({"verbose": 0, "epochs": epochs, "steps": steps})
        self._at_first: list[dict[str, Any]] = []
        self._in_epoch = False

    def begin(self, state: Sequence[dict[str, Any]]) -> None:
        """Begin the training, and restore what `state` returned if the run is resumed."""
        self._list.on_train_begin()
        self._at_first = [_simple(callback) for callback in self.callbacks]
        for callback, values in zip(self.callbacks, state, strict=False):
            for name, value in values.items():
                if name in vars(callback):
                    setattr(callback, name, value)

    def batch_begin(self, step: int, epoch: int) -> None:
        """Begin a batch, and an epoch if it is the first one of it."""
        if not self._in_epoch:
            self._in_epoch = True
            self._list.on_epoch_begin(epoch)
        self._list.on_train_batch_begin(step)

    def batch_end(self, step: int, logs: dict[str, float]) -> None:
        """End a batch."""
        self._list.on_train_batch_end(step, logs)

    def validated(self, logs: dict[str, float]) -> None:
        """End a validation; the names in `logs` have no prefix."""
        self._list.on_test_end(logs)

    def validation_begins(self) -> None:
        """Begin a validation."""
        self._list.on_test_begin()

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """End an epoch."""
        self._in_epoch = False
        self._list.on_epoch_end(epoch, logs)

    def end(self, logs: dict[str, float]) -> None:
        """End the training in this process."""
        self._list.on_train_end(logs)

    def state(self) -> list[dict[str, Any]]:
        """The simple attributes of each callback that have changed since `begin`."""
        return [
            {
                name: value
                for name, value in _simple(callback).items()
                if name not in before or before[name] != value
            }
            for callback, before in zip(self.callbacks, self._at_first, strict=False)
        ]


def _simple(callback: keras.callbacks.Callback) -> dict[str, Any]:
    found = {}
    for name, value in vars(callback).items():
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy number
            value = value.item()
        # JSON has neither NaN nor infinities.
        if isinstance(value, _SIMPLE) and not (isinstance(value, float) and not isfinite(value)):
            found[name] = value
    return found


def history_of(entries: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Convert entries to the form of Keras' `History.history`: a list per name.

    Missing values are NaN.
    """
    names = dict.fromkeys(name for entry in entries for name in entry)
    if "step" in names:
        entries = [{**entry, "step": int(entry["step"])} for entry in entries]
    return {name: [entry.get(name, float("nan")) for entry in entries] for name in names}


def waited(entries: Sequence[dict[str, float]]) -> int:
    """Number of validations since the best one."""
    losses = [entry["val_loss"] for entry in entries if "val_loss" in entry]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
