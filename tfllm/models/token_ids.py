"""Checks of a model's token ids: they are in its vocabulary, and fit its maximum length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfllm.optimization.labels import checked_ids


def ids_shape(input_shape: Any) -> tuple[int | None, ...]:
    """The shape of a model's token ids, given alone or in a dictionary of the inputs' shapes."""
    if isinstance(input_shape, Mapping):
        input_shape = input_shape["token_ids"]
    return tuple(input_shape)


def num_tokens(token_ids: tf.Tensor) -> int | tf.Tensor:
    """T of token ids `[B, T]`: a number where it is known, else an int32 scalar."""
    return tf.shape(token_ids)[1] if token_ids.shape[1] is None else token_ids.shape[1]


def checked_tokens(
    token_ids: Any,
    config: Any,
    *,
    what: str = "sequence",
    decoding: bool = False,
) -> tf.Tensor:
    """The ids as int32, checked before anything that depends on them is computed.

    Args:
        token_ids: int `[B, T]`.
        config: configuration with `vocab_size` and `max_sequence_length`.
        what: what a row is, for the error. Defaults to "sequence".
        decoding: whether generation chose the ids: then only a static length is checked. Defaults
            to False.

    Raises:
        ValueError: the static length is too large; or, in eager execution, an id is not in the
            vocabulary. A graph raises `tf.errors.InvalidArgumentError` when it runs.
    """
    most = config.max_sequence_length
    rule = f"a {what} may have at most max_sequence_length={most} tokens"
    advice = "Give shorter rows or a model with a longer context."
    token_ids = tf.convert_to_tensor(token_ids)
    time = token_ids.shape[1]
    if time is not None and time > most:
        raise ValueError(f"{rule}; received {time}. {advice}")
    if decoding:
        return tf.cast(token_ids, tf.int32)
    token_ids = checked_ids(token_ids, config.vocab_size, what="token ids", bound="vocab_size")
    if time is not None:
        return token_ids
    time = tf.shape(token_ids)[1]
    check = tf.debugging.assert_less_equal(time, most, f"{rule}. {advice}")
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(token_ids)
