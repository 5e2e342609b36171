"""Which tokens may come next, whatever the model thinks of them.

Shape letters: B batch, V vocabulary, E end tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf


class TokenRules(NamedTuple):
    """Rules that are the same for all rows of a model, as of `GenerationConfig`.

    Args:
        suppress_tokens: ids that never come.
        begin_suppress_tokens: ids that are no text's first.
        min_new_tokens: no text ends before it has so many tokens.
        min_length: nor before the prompt and it have so many together.
    """

    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0

    @classmethod
    def of(cls, settings: Any) -> TokenRules:
        """Those of settings that have fields of these names."""
        return cls(**{n: getattr(settings, n) for n in cls._fields if hasattr(settings, n)})

    def apply(
        self,
        logits: tf.Tensor,
        counts: tf.Tensor,
        prompt_lengths: tf.Tensor,
        end_token_ids: tf.Tensor,
    ) -> tf.Tensor:
        """The logits, minus infinity where a token may not come.

        Args:
            logits: float32 `[B, V]`.
            counts: int32 `[B]`: tokens of each text so far.
            prompt_lengths: int32 `[B]`.
            end_token_ids: int32 `[E]`.
        """
        if self.suppress_tokens:
            logits += _forbidden(logits, self.suppress_tokens)
        if self.begin_suppress_tokens:
            first = tf.cast(counts == 0, tf.bool)[:, tf.newaxis]
            forbidden = _forbidden(logits, self.begin_suppress_tokens)
            logits = tf.where(first, logits + forbidden, logits)
        if self.min_new_tokens or self.min_length:
            short = counts < self.min_new_tokens
            short |= counts + prompt_lengths < self.min_length
            forbidden = _forbidden(logits, end_token_ids)
            logits = tf.where(short[:, tf.newaxis], logits + forbidden, logits)
        return logits


NO_RULES = TokenRules()


def _forbidden(logits: tf.Tensor, ids: Any) -> tf.Tensor:
    """Minus infinity at the ids, else 0: `[V]`."""
    places = tf.range(tf.shape(logits)[-1])
    is_one = tf.reduce_any(places[:, tf.newaxis] == ids, -1)
    return tf.where(is_one, tf.constant(-math.inf, logits.dtype), 0)
