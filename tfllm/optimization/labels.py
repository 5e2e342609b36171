"""The ids of a batch: whether they are in range, which labels count, and with what weight."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

IGNORED_LABEL = -100
"""a label that is ignored, as in PyTorch's cross-entropy and Hugging Face's collators"""

_RULE = "must be at least 0 and below"
_WHOLE = "must be whole numbers"
_FAILED = re.compile(
    rf"assertion failed: \[([^\]]* (?:{_RULE}|{_WHOLE})[^\]]*)\] \[(\S+)\] \[(\S+)\]"
)


def checked_ids(ids: Any, size: int | tf.Tensor, *, what: str, bound: str) -> tf.Tensor:
    """The ids as int32, checked to be in range before anything reads them.

    For ids out of range TensorFlow looks up zeros on a GPU, and on a CPU its error does not say
    which rule they break. (A step compiled by XLA is not checked: XLA has no assertions.)

    Args:
        ids: integers of any shape, or floats that are whole numbers.
        size: number of valid ids.
        what: what the ids are, in the plural, for the error.
        bound: name of `size`, for the error.

    Raises:
        ValueError: an id is out of range, in eager execution. A graph raises
            `tf.errors.InvalidArgumentError` when it runs; see `errors_in_words`.
    """
    ids = whole_numbers(ids, what=what)
    least, greatest = tf.reduce_min(ids), tf.reduce_max(ids)  # before a cast could wrap them
    rule = f"{what} {_RULE} {bound}"
    if not isinstance(size, tf.Tensor):
        rule += f"={size}"
    if tf.executing_eagerly():
        if tf.size(ids) and not (least >= 0 and greatest < size):
            raise ValueError(_message(rule, least.numpy(), greatest.numpy()))
        return tf.cast(ids, tf.int32)
    exist = (least >= 0) & (greatest < tf.cast(size, ids.dtype))
    check = tf.Assert(exist, [rule, least, greatest])
    with tf.control_dependencies([check]):
        return tf.cast(tf.identity(ids), tf.int32)


def whole_numbers(values: Any, *, what: str) -> tf.Tensor:
    """Integers unchanged, and floats, which must be whole numbers, as int64.

    Args:
        values: integers or floats of any shape.
        what: what the values are, in the plural, for the error.

    Raises:
        ValueError: a float is not a whole number; in a graph as for `checked_ids`.
    """
    values = tf.convert_to_tensor(values)
    if not values.dtype.is_floating:
        return values
    part = tf.not_equal(values, tf.floor(values)) | ~tf.math.is_finite(values)
    rule = f"{what} {_WHOLE}"
    if tf.executing_eagerly():
        if tf.reduce_any(part):
            wrong = values[part][0].numpy()
            raise ValueError(_message(rule, wrong, wrong))
        return tf.cast(values, tf.int64)
    flat = tf.concat([tf.reshape(values, [-1]), [0]], 0)  # never empty
    part = tf.concat([tf.reshape(part, [-1]), [False]], 0)
    wrong = tf.gather(flat, tf.argmax(tf.cast(part, tf.int32)))
    check = tf.Assert(~tf.reduce_any(part), [rule, wrong, wrong])
    with tf.control_dependencies([check]):
        return tf.cast(tf.identity(values), tf.int64)


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """Raise the errors that `checked_ids` finds in a graph as `ValueError`s."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _FAILED.search(error.message)
        if found is None:
            raise
        raise ValueError(_message(*found.groups())) from None


def _message(rule: str, least: Any, greatest: Any) -> str:
    # Compared as text, since nan is not equal to itself.
    received = f"{least}" if str(least) == str(greatest) else f"{least} to {greatest}"
    return f"{rule}; received {received}"


def counted_labels(
    labels: tf.Tensor,
    weights: tf.Tensor,
    num_classes: int | None,
    class_weights: np.ndarray | None = None,
    *,
    bound: str = "num_classes",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels checked to be in range, and their weights, which are 0 for ignored labels.

    Args:
        labels: integers, or floats that are whole numbers; `IGNORED_LABEL` for those to ignore.
        weights: float32, of the same shape.
        num_classes: number of classes, if known.
        class_weights: result of `class_weight_table`.
        bound: name of `num_classes`, for the error.

    Returns:
        int32 labels and float32 weights; both are 0 where a label is ignored.
    """
    labels = whole_numbers(labels, what="labels")
    ignored = tf.equal(labels, tf.cast(IGNORED_LABEL, labels.dtype))
    labels = tf.where(ignored, tf.zeros_like(labels), labels)
    weights = tf.where(ignored, tf.zeros_like(weights), weights)
    if num_classes is not None:
        what = f"labels (except {IGNORED_LABEL}, which is ignored)"
        labels = checked_ids(labels, num_classes, what=what, bound=bound)
    if class_weights is not None:
        # The last entry is for all classes that are not named.
        place = tf.clip_by_value(tf.cast(labels, tf.int32), 0, len(class_weights) - 1)
        weights *= tf.gather(tf.constant(class_weights), place)
    return tf.cast(labels, tf.int32), weights


def class_weight_table(class_weight: Mapping[int, float], num_classes: int | None) -> np.ndarray:
    """The weights of the classes 0, 1, ... up to the last one named, and a 1 for all others.

    Args:
        class_weight: mapping of class to weight, as for `keras.Model.fit`.
        num_classes: number of classes, if known.

    Returns:
        float32 `[last class named + 2]`.

    Raises:
        ValueError: `class_weight` is not such a mapping, or names a class out of range.
    """
    rule = "class_weight must map classes (integers from 0) to weights (finite, not negative)"
    if not isinstance(class_weight, Mapping) or not class_weight:
        raise ValueError(f"{rule}; received {class_weight!r}")
    for number, weight in class_weight.items():
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or number < 0 or not 0 <= float(weight) < float("inf"):
            raise ValueError(f"{rule}; received {number!r}: {weight!r}")
        if num_classes is not None and number >= num_classes:
            raise ValueError(
                f"class_weight must name classes of the model, which are 0 to {num_classes - 1}; "
                f"received {number}"
            )
    table = np.ones(max(map(int, class_weight)) + 2, np.float32)
    for number, weight in class_weight.items():
        table[number] = weight
    return table


def is_sparse_cross_entropy(loss: Any) -> bool:
    """Whether a Keras loss is a sparse cross-entropy that ignores no class."""
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return loss.ignore_class is None
    return loss is keras.losses.sparse_categorical_crossentropy
