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
        forced_eos_token_id: the last token that a text may have is one of these ids.
    """

    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0
    forced_eos_token_id: tuple[int, ...] = ()

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

    def is_forced(self, counts: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
        """Whether a text's next token is its last, and one of `forced_eos_token_id`: bool `[B]`.

        Args:
            counts: int32 `[B]`: tokens of each text so far.
            limits: int32 `[B]`: those that it may get.
        """
        if not self.forced_eos_token_id:
            return tf.zeros(tf.shape(counts), tf.bool)
        return counts >= limits - 1

    def with_forced(
        self, logits: tf.Tensor, is_forced: tf.Tensor, value: tf.Tensor | float = 0.0
    ) -> tf.Tensor:
        """The logits `[B, V]`; where one is forced, `value` `[B, 1]` at it and else minus infinity.

        This rule overrules the others.
        """
        if not self.forced_eos_token_id:
            return logits
        forced = _is_one(logits, self.forced_eos_token_id)
        last = tf.where(forced, value, tf.constant(-math.inf, logits.dtype))
        return tf.where(is_forced[:, tf.newaxis], last, logits)


NO_RULES = TokenRules()


def _forbidden(logits: tf.Tensor, ids: Any) -> tf.Tensor:
    """Minus infinity at the ids, else 0: `[V]`."""
    return tf.where(_is_one(logits, ids), tf.constant(-math.inf, logits.dtype), 0)


def _is_one(logits: tf.Tensor, ids: Any) -> tf.Tensor:
    """Which tokens are among the ids: bool `[V]`."""
    places = tf.range(tf.shape(logits)[-1])
    return tf.reduce_any(places[:, tf.newaxis] == ids, -1)
