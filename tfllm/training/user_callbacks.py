"""Keras callbacks that somebody gives a run: their epochs are the stretches between validations."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import keras

from tfllm.config import ConfigError

_REFUSED: dict[type, str] = {
    keras.callbacks.BackupAndRestore: "a run saves checkpoints and goes on from them by itself",
    keras.callbacks.LearningRateScheduler: "the schedule is a setting of the run (schedule=...)",
    keras.callbacks.ReduceLROnPlateau: "the schedule is a setting of the run (schedule=...)",
}
_SIMPLE = (bool, int, float, str, type(None))


def checked_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks, if a run can call them.

    Raises:
        ConfigError: something is no Keras callback, or one that a run has no use for.
    """
    given = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
    for callback in given:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigError(
                f"callbacks must be keras.callbacks.Callback objects; received {callback!r}"
            )
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigError(f"{kind.__name__} is not for a run: {reason}; leave it out")
    return list(given)


class UserCallbacks:
    """The callbacks of a run, called as `model.fit` would call them.

    An epoch is a stretch that ends with a validation (or, without validation data, where one would
    be): `on_epoch_end` has the mean `loss` of its steps and what the validation gave as `val_loss`
    and so on. Epochs and steps are counted from the beginning of the run, also where it goes on. A
    callback begins anew in each process; its simple attributes (numbers, texts), such as how long
    `EarlyStopping` has waited, are then what they were at the checkpoint.

    Args:
        callbacks: what `checked_callbacks` gave.
        model: that is fitted.
        epochs: of the whole run.
        steps: of an epoch.
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
        """The run begins, or goes on with what `state` gave."""
        self._list.on_train_begin()
        self._at_first = [_simple(callback) for callback in self.callbacks]
        for callback, values in zip(self.callbacks, state, strict=False):
            for name, value in values.items():
                if name in vars(callback):
                    setattr(callback, name, value)

    def batch_begin(self, step: int, epoch: int) -> None:
        """A call of the graph begins."""
        if not self._in_epoch:
            self._in_epoch = True
            self._list.on_epoch_begin(epoch)
        self._list.on_train_batch_begin(step)

    def batch_end(self, step: int, logs: dict[str, float]) -> None:
        """It has ended."""
        self._list.on_train_batch_end(step, logs)

    def validated(self, logs: dict[str, float]) -> None:
        """A validation has ended; what it gave has no prefix."""
        self._list.on_test_end(logs)

    def validation_begins(self) -> None:
        """A validation begins."""
        self._list.on_test_begin()

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """An epoch has ended."""
        self._in_epoch = False
        self._list.on_epoch_end(epoch, logs)

    def end(self, logs: dict[str, float]) -> None:
        """This process has done its part of the run."""
        self._list.on_train_end(logs)

    def state(self) -> list[dict[str, Any]]:
        """What of the callbacks has changed since `begin` and is simple, for the next process."""
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
    """Entries as a Keras `History.history` has them: a list for each name.

    A name that an entry lacks is NaN there.
    """
    names = dict.fromkeys(name for entry in entries for name in entry)
    if "step" in names:
        entries = [{**entry, "step": int(entry["step"])} for entry in entries]
    return {name: [entry.get(name, float("nan")) for entry in entries] for name in names}


def waited(entries: Sequence[dict[str, float]]) -> int:
    """How many validations in a row were no better than the best before them."""
    losses = [entry["val_loss"] for entry in entries if "val_loss" in entry]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0
