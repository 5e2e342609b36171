"""Forbid tokens that would repeat a sequence of tokens of the same text (Paulus et al., 2017).

Shape letters: R rows, P longest prompt, T capacity of a text in tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

_NONE = -1


class RightAligned(NamedTuple):
    """Prompts that end in the same column, so that new tokens follow them directly."""

    token_ids: tf.Tensor
    """int32 `[R, P]`, with -1 before a shorter prompt"""

    @classmethod
    def of(cls, prompts: tf.RaggedTensor) -> RightAligned:
        """Align int32 `[R, (P)]` prompts."""
        token_ids = prompts.to_tensor(default_value=_NONE, shape=[None, None])
        turned = tf.reverse_sequence(token_ids, prompts.row_lengths(), seq_axis=1, batch_axis=0)
        return cls(tf.reverse(turned, [1]))

    def repeated(self, num: int) -> RightAligned:
        """Repeat each prompt `num` times."""
        return RightAligned(tf.repeat(self.token_ids, num, axis=0))


def without_repeats(
    logits: tf.Tensor,
    token_ids: tf.Tensor,
    num_tokens: tf.Tensor,
    size: int,
    *,
    free: tf.Tensor,
    context: RightAligned | None = None,
) -> tf.Tensor:
    """Set logits to minus infinity where a token would repeat a sequence of `size` tokens.

    Args:
        logits: float32 `[R, V]`, the logits of the next token.
        token_ids: int32 `[R, T]`, the texts so far.
        num_tokens: int32 `[R]`, the number of tokens of each text.
        size: Length of the sequences, at least 1.
        free: int32 `[E]`, tokens that are always allowed.
        context: Prompts whose sequences count, too. Defaults to none.
    """
    before = 0
    if context is not None:
        token_ids = tf.concat([context.token_ids, token_ids], 1)
        before = tf.shape(context.token_ids)[1]
    # Columns for texts that are too short to have so many last tokens.
    token_ids = tf.pad(token_ids, [[0, 0], [size, 0]], constant_values=_NONE)
    ends = num_tokens + before + size
    width = tf.shape(token_ids)[1]
    repeats = tf.range(width - size + 1) + size - 1 < ends[:, tf.newaxis]
    for i in range(size - 1):
        last = tf.gather(token_ids, ends - size + 1 + i, batch_dims=1)[:, tf.newaxis]
        repeats &= (token_ids[:, i : width - size + 1 + i] == last) & (last != _NONE)
    banned = token_ids[:, size - 1 :]
    repeats &= (banned != _NONE) & tf.reduce_all(banned[..., tf.newaxis] != free, -1)
    places = tf.cast(tf.where(repeats), tf.int32)
    tokens = tf.gather_nd(banned, places)
    return tf.tensor_scatter_nd_update(
        logits,
        tf.stack([places[:, 0], tokens], 1),
        tf.fill(tf.shape(tokens), tf.constant(-math.inf, logits.dtype)),
    )
