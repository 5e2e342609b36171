"""Rules for which tokens are allowed next, whatever the model predicts.

Shape letters: B batch, V vocabulary, E end tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf


class TokenRules(NamedTuple):
    """Rules that are the same for all rows of a model, as in `GenerationConfig`.

    Args:
        suppress_tokens: Ids that are never generated. Defaults to none.
        begin_suppress_tokens: Ids that are not allowed as the first token. Defaults to none.
        min_new_tokens: Minimum number of new tokens before a text may end. Defaults to 0.
        min_length: Minimum number of tokens of the prompt and the text before it may end. Defaults
            to 0.
        forced_eos_token_id: Ids of which the last token at a text's limit must be one. Defaults to
            none.

    Examples:

    >>> import tensorflow as tf
    >>> from tfllm.generation.token_rules import TokenRules
    >>> rules = TokenRules(suppress_tokens=(1,))
    >>> zeros = tf.zeros([1, 3])
    >>> rules.apply(zeros, tf.constant([0]), tf.constant([1]), tf.constant([2])).numpy().tolist()
    [[0.0, -inf, 0.0]]
    """

    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_new_tokens: int = 0
    min_length: int = 0
    forced_eos_token_id: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: Any) -> TokenRules:
        """The rules in settings that have fields of these names."""
        return cls(**{n: getattr(settings, n) for n in cls._fields if hasattr(settings, n)})

    def apply(
        self,
        logits: tf.Tensor,
        counts: tf.Tensor,
        prompt_lengths: tf.Tensor,
        end_token_ids: tf.Tensor,
    ) -> tf.Tensor:
        """Set the logits of tokens that are not allowed to minus infinity.

        Args:
            logits: float32 `[B, V]`.
            counts: int32 `[B]`, the number of tokens of each text so far.
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
        """Whether a text's next token is its last, and must be a `forced_eos_token_id`: bool `[B]`.

        Args:
            counts: int32 `[B]`, the number of tokens of each text so far.
            limits: int32 `[B]`, the maximum number.
        """
        if not self.forced_eos_token_id:
            return tf.zeros(tf.shape(counts), tf.bool)
        return counts >= limits - 1

    def with_forced(
        self, logits: tf.Tensor, is_forced: tf.Tensor, value: tf.Tensor | float = 0.0
    ) -> tf.Tensor:
        """Where a token is forced, set its logit to `value` `[B, 1]`, and the others to minus
        infinity.

        This rule takes precedence over the others.
        """
        if not self.forced_eos_token_id:
            return logits
        forced = _is_one(logits, self.forced_eos_token_id)
        last = tf.where(forced, value, tf.constant(-math.inf, logits.dtype))
        return tf.where(is_forced[:, tf.newaxis], last, logits)


NO_RULES = TokenRules()


def _forbidden(logits: tf.Tensor, ids: Any) -> tf.Tensor:
    """Minus infinity at the ids, 0 elsewhere: `[V]`."""
    return tf.where(_is_one(logits, ids), tf.constant(-math.inf, logits.dtype), 0)


def _is_one(logits: tf.Tensor, ids: Any) -> tf.Tensor:
    """Which tokens are among the ids: bool `[V]`."""
    places = tf.range(tf.shape(logits)[-1])
    return tf.reduce_any(places[:, tf.newaxis] == ids, -1)
