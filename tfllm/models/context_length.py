"""No row may have more tokens than a model has positions for."""

from __future__ import annotations

import tensorflow as tf


def checked_length(
    token_ids: tf.Tensor,
    max_sequence_length: int,
    *,
    what: str = "sequence",
    check_dynamic: bool = True,
) -> tf.Tensor:
    """The ids; nothing that depends on them is computed before their number is found allowed.

    Args:
        token_ids: int `[B, T]`.
        max_sequence_length: the model's context, in tokens.
        what: what the rows are, for the error.
        check_dynamic: whether a length that the graph does not know is held against it, too, when
            the graph runs.

    Raises:
        ValueError: the graph knows the length, and it is too long.
    """
    rule = f"a {what} may have at most max_sequence_length={max_sequence_length} tokens"
    advice = "Give shorter rows or a model with a longer context."
    time = token_ids.shape[1]
    if time is not None:
        if time > max_sequence_length:
            raise ValueError(f"{rule}; received {time}. {advice}")
        return token_ids
    if not check_dynamic:
        return token_ids
    time = tf.shape(token_ids)[1]
    check = tf.debugging.assert_less_equal(time, max_sequence_length, f"{rule}. {advice}")
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(token_ids)
