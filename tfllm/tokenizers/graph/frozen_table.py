"""An immutable hash table made of plain variables: int64 keys to int32 values.

TensorFlow's own tables either grow or keep their entries as constants in the graph. This one is
saved with the variables, and a lookup takes three gathers.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_EMPTY = -1
_MULTIPLIERS = (
    -7046029254386353131,
    6364136223846793005,
    -4417276706812531889,
    2685821657736338717,
)
_SHIFTS = (20, 41)


class FrozenTable(tf.Module):
    """A table in which each key has two possible positions (cuckoo hashing; Pagh and Rodler, 2004).

    Args:
        keys: int64 [n], distinct and not negative.
        values: int32 [n].
        default: Value for missing keys.
        name: Prefix of the variables' names.
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray, default: int, name: str) -> None:
        super().__init__(name=name)
        self._default = default
        self._multiplier, self._size, placed = _place(np.asarray(keys, np.int64))
        filled = placed >= 0
        slots = np.full(len(placed), _EMPTY, np.int64)
        slots[filled] = keys[placed[filled]]
        results = np.full(len(placed), default, np.int32)
        results[filled] = values[placed[filled]]
        self.keys = tf.Variable(slots, trainable=False, name=f"{name}_keys")
        self.values = tf.Variable(results, trainable=False, name=f"{name}_values")

    def lookup(self, keys: tf.Tensor) -> tf.Tensor:
        """Look up int64 keys of any shape; returns int32 values."""
        mixed = keys * tf.constant(self._multiplier, tf.int64)  # wraps around
        mask = tf.constant(self._size - 1, tf.int64)
        first, second = (
            tf.bitwise.bitwise_and(tf.bitwise.right_shift(mixed, tf.constant(s, tf.int64)), mask)
            for s in _SHIFTS
        )
        in_first = tf.equal(tf.gather(self.keys, first), keys)
        second = tf.where(in_first, first, second + self._size)
        found = tf.equal(tf.gather(self.keys, second), keys)
        return tf.where(found, tf.gather(self.values, second), self._default)


def _place(keys: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Find a position for every key: the multiplier, the size of a side, and the key at each
    position."""
    size = 16
    while size < 1.4 * len(keys):
        size *= 2
    while True:
        for multiplier in _MULTIPLIERS:
            placed = _try_to_place(keys, multiplier, size)
            if placed is not None:
                return multiplier, size, placed
        size *= 2


def _try_to_place(keys: np.ndarray, multiplier: int, size: int) -> np.ndarray | None:
    with np.errstate(over="ignore"):
        mixed = keys * np.int64(multiplier)
    places = [((mixed >> shift) & (size - 1)) + side * size for side, shift in enumerate(_SHIFTS)]
    placed = np.full(2 * size, -1, np.int64)
    pending = np.arange(len(keys))
    for attempt in range(200):
        if len(pending) == 0:
            return placed
        # Every key without a position moves into this side; the keys that it displaces try the
        # other.
        wanted = places[attempt % 2][pending]
        touched = np.unique(wanted)
        driven_out = placed[touched]
        placed[wanted] = pending
        lost = pending[placed[wanted] != pending]
        pending = np.concatenate([driven_out[driven_out >= 0], lost])
    return None
