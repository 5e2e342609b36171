"""Generate token by token with a cache: all prompts at once, then one step per token for all rows.

This module has the loop and its state; a model's `Decoder` defines how it takes prompts and tokens
(`causal_lm_decoder`, `keras_hub_decoder`).

Shape letters: B batch, P longest prompt, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfllm.generation.sampling import SamplingOptions, next_tokens
from tfllm.generation.token_rules import NO_RULES, TokenRules

RUNNING, STOP, LENGTH = 0, 1, 2
"""State of a row: it has not ended; it ended at an end token or a stop string; or at its limit."""

INITIAL_CAPACITY = 64
"""Number of new tokens that fit in a new cache."""


class DecodingState(NamedTuple):
    """The state of a generation between two tokens."""

    cache: Any
    """the decoder's cache of the tokens so far: a nest of tensors"""
    prompt_lengths: tf.Tensor
    """int32 [B]"""
    limits: tf.Tensor
    """int32 [B]: the maximum number of new tokens of a row"""
    step: tf.Tensor
    """int32 [B]: number of tokens chosen so far"""
    token: tf.Tensor
    """int32 [B]: the last token, which is not in the cache yet"""
    counts: tf.Tensor
    """int32 [B]: number of tokens of each text, without an end token"""
    ends: tf.Tensor
    """int32 [B]: RUNNING, STOP or LENGTH"""
    seen: tf.Tensor
    """bool [B, V]: tokens that occur in the prompt or the text"""
    text: tf.Tensor
    """string [B]: bytes of the text so far"""


class NextLogits(NamedTuple):
    """The result of a decoder's step."""

    cache: Any
    logits: tf.Tensor
    """float32 [B, V or more]"""
    taken: tf.Tensor | None = None
    """bool [B]: rows that get a token in this step; None means all that have not ended"""


class Decoder(Protocol):
    """A language model for generation: token ids in, logits out, with a cache between steps."""

    @property
    def model(self) -> Any:
        """The Keras model."""

    @property
    def vocab_size(self) -> int:
        """The number of ids of the model."""

    @property
    def context(self) -> int:
        """The maximum number of tokens of a text, including the prompt that it continues."""

    @property
    def continues_prompts(self) -> bool:
        """Whether a text continues its prompt; False if the prompt is an encoder's source."""

    @property
    def never_generated(self) -> tuple[int, ...]:
        """Ids that are never generated, such as that of padding. The logits of a step still include
        them; they must be removed before choosing tokens (`without_never_generated`)."""

    @property
    def dtype(self) -> str:
        """The dtype of the weights and the computation."""

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables that its methods read."""

    @property
    def cache_structure(self) -> Any:
        """A nest with the structure of the cache and any values."""

    def with_dtype(self, dtype: str) -> Decoder:
        """The same model with weights and computation in another dtype."""

    def begin(self, state: DecodingState, prompts: tf.RaggedTensor) -> NextLogits:
        """Run the prompts, int32 `[B, (P)]`, each with at least one token.

        Args:
            state: State without a cache yet; its `token` is the last of each prompt.
            prompts: Prompts that are within the model's context.
        """

    def repeated(self, cache: Any, num: int) -> Any:
        """The cache for `num` beams of each row, which are adjacent: B * num rows.

        What all beams of a row share, such as the keys and values of a prompt or a source, need not
        be copied: see `beam_cache_indices`.
        """

    def reordered(self, cache: Any, parents: tf.Tensor) -> Any:
        """The cache, from `repeated`, in which each beam continues one of its row's beams.

        Args:
            parents: int32 `[B * num]`, the beam that each one continues, in the same row: indices
                from 0 to B * num - 1.
        """

    def step(self, state: DecodingState) -> NextLogits:
        """Run each row's last token; `fits_cache` must be true."""

    def fits_cache(self, state: DecodingState) -> tf.Tensor:
        """Whether the last token fits in the cache, a bool scalar."""

    def extended_cache(self, state: DecodingState) -> Any:
        """The cache, extended if the last token does not fit."""

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The negative log-probability of each label.

        Args:
            token_ids: int32 `[B, T]`; a label is predicted from the ids up to its own position.
            labels: int32 `[B, T]`.

        Returns:
            float32 `[B, T]`.
        """


class StopRule(Protocol):
    """Decides from the text's bytes whether a row ends."""

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """String `[B]` to bool `[B]`."""


def initial_capacity(limits: tf.Tensor) -> tf.Tensor:
    """The number of new tokens that fit in a new cache, int32 scalar.

    Each token attends to all entries of a cache, so it begins with capacity for a few new tokens,
    which is doubled when it is full: a large `max_new_tokens` costs nothing until it is used.
    """
    return tf.minimum(tf.maximum(tf.reduce_max(limits), 1), INITIAL_CAPACITY)


def added_capacity(capacity: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
    """The number of entries to add to a full cache with a capacity for new tokens, int32 scalar."""
    return tf.minimum(2 * capacity, tf.maximum(tf.reduce_max(limits), capacity)) - capacity


def most_new_tokens(decoder: Decoder, lengths: tf.Tensor) -> tf.Tensor:
    """The maximum number of new tokens after prompts of int32 `[B]` tokens, int32 `[B]`."""
    if decoder.continues_prompts:
        return tf.maximum(decoder.context - lengths, 0)
    return tf.fill(tf.shape(lengths), decoder.context)


def without_never_generated(logits: tf.Tensor, decoder: Decoder) -> tf.Tensor:
    """Set the logits `[B, V]` of ids that are never generated to minus infinity."""
    if not decoder.never_generated:
        return logits
    places = tf.range(tf.shape(logits)[-1])
    never = tf.reduce_any(places[:, tf.newaxis] == decoder.never_generated, -1)
    return tf.nn.bias_add(logits, tf.where(never, tf.constant(-math.inf, logits.dtype), 0))


def begin(
    decoder: Decoder,
    prompts: tf.RaggedTensor,
    limits: tf.Tensor,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
    token_rules: TokenRules = NO_RULES,
) -> DecodingState:
    """Run the prompts through the model and choose the first token.

    Args:
        decoder: The model.
        prompts: int32 `[B, (P)]`, each with at least one token and within the context.
        limits: int32 `[B]`, the maximum number of new tokens of a row; 0 for a row to skip.
        options: Options of sampling.
        end_token_ids: int32 `[E]`, ids at which a row ends.
        token_bytes: string `[V]`, the bytes of each token.
        stops: Rule that ends a row because of its text.
        token_rules: Rules for which tokens are allowed. Defaults to none.

    Returns:
        The state after the first token (of each row for which the decoder gives one at once).
    """
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    batch = tf.shape(lengths)[0]
    limits = tf.minimum(limits, most_new_tokens(decoder, lengths))
    if decoder.continues_prompts:
        seen = tf.scatter_nd(
            tf.stack([tf.cast(prompts.value_rowids(), tf.int32), prompts.flat_values], 1),
            tf.ones_like(prompts.flat_values),
            [batch, token_bytes.shape[0]],
        )
    else:
        seen = tf.zeros([batch, token_bytes.shape[0]], tf.int32)
    state = DecodingState(
        cache=(),
        prompt_lengths=lengths,
        limits=limits,
        step=tf.zeros([batch], tf.int32),
        token=tf.gather(prompts.flat_values, prompts.row_splits[1:] - 1),
        counts=tf.zeros([batch], tf.int32),
        ends=tf.where(limits > 0, RUNNING, LENGTH),
        seen=seen > 0,
        text=tf.fill([batch], ""),
    )
    return choose(
        decoder,
        state,
        decoder.begin(state, prompts),
        options,
        end_token_ids=end_token_ids,
        token_bytes=token_bytes,
        stops=stops,
        token_rules=token_rules,
    )


def advance(
    decoder: Decoder,
    state: DecodingState,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
    token_rules: TokenRules = NO_RULES,
) -> DecodingState:
    """Run the last token, which must fit in the cache, and choose each row's next one."""
    return choose(
        decoder,
        state,
        decoder.step(state),
        options,
        end_token_ids=end_token_ids,
        token_bytes=token_bytes,
        stops=stops,
        token_rules=token_rules,
    )


def with_extended_cache(decoder: Decoder, state: DecodingState) -> DecodingState:
    """The state, with its cache extended if the last token does not fit."""
    return state._replace(cache=decoder.extended_cache(state))


def choose(
    decoder: Decoder,
    state: DecodingState,
    given: NextLogits,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
    token_rules: TokenRules = NO_RULES,
) -> DecodingState:
    """Choose each row's next token from the result of a decoder's step. For the other arguments see
    `begin`."""
    # A model may have more classes than its tokenizer has tokens (rounded up for speed).
    logits = without_never_generated(given.logits[:, : token_bytes.shape[0]], decoder)
    logits = token_rules.apply(logits, state.counts, state.prompt_lengths, end_token_ids)
    is_forced = token_rules.is_forced(state.counts, state.limits)
    logits = token_rules.with_forced(logits, is_forced)
    token = next_tokens(logits, options, state.step, state.seen)
    running = state.ends == RUNNING
    more: int | tf.Tensor = 1
    if given.taken is not None:
        running &= given.taken
        token = tf.where(given.taken, token, state.token)
        more = tf.cast(given.taken, tf.int32)
    ended = tf.reduce_any(token[:, tf.newaxis] == end_token_ids, axis=-1)
    taken = running & ~ended
    counts = state.counts + tf.cast(taken, tf.int32)
    pieces = tf.where(taken, tf.gather(token_bytes, token), "")
    text = tf.strings.join([state.text, pieces])
    ends = tf.where(running & ended, tf.where(is_forced, LENGTH, STOP), state.ends)
    ends = tf.where(taken & (counts >= state.limits), LENGTH, ends)
    ends = tf.where(taken & stops(text), STOP, ends)
    rows = tf.range(tf.shape(token)[0])
    return state._replace(
        cache=given.cache,
        step=state.step + more,
        token=token,
        counts=counts,
        ends=ends,
        seen=tf.tensor_scatter_nd_update(
            state.seen, tf.stack([rows, token], 1), tf.fill(tf.shape(token), True)
        ),
        text=text,
    )


def decode(
    decoder: Decoder,
    prompts: tf.RaggedTensor,
    limits: tf.Tensor,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
    token_rules: TokenRules = NO_RULES,
    advance: Callable[..., DecodingState] = advance,
) -> DecodingState:
    """Generate until every row has ended.

    Args:
        advance: Function of one or more steps, with the arguments of `advance`, such as
            `prompt_lookup.advance_to_draft`. Defaults to `advance`. For the other arguments see
            `begin`.
    """
    rules: dict[str, Any] = {
        "end_token_ids": end_token_ids,
        "token_bytes": token_bytes,
        "stops": stops,
        "token_rules": token_rules,
    }

    def running(state: DecodingState) -> tf.Tensor:
        return tf.reduce_any(state.ends == RUNNING)

    def until_full(state: DecodingState) -> tuple[DecodingState]:
        return tf.while_loop(
            lambda state: running(state) & decoder.fits_cache(state),
            lambda state: (advance(decoder, state, options, **rules),),
            (with_extended_cache(decoder, state),),
            parallel_iterations=1,
        )

    state = begin(decoder, prompts, limits, options, **rules)
    (state,) = tf.while_loop(running, until_full, (state,), parallel_iterations=1)
    return state
