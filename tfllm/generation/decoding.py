"""Token by token with a cache: one prefill of all prompts, then one step a token for all rows.

Prompts are padded on the right. All rows write the same cache slots; a row's positions count its
own tokens, and slots that are not its own (the gap behind a shorter prompt) are masked. So a row
decodes alike alone and in a batch of other lengths.

Shape letters: B batch, P longest prompt, M most new tokens, S = P + M slots, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import tensorflow as tf

from tfllm.generation.sampling import SamplingOptions, next_tokens
from tfllm.layers.attention import bias_of
from tfllm.models.causal_lm import Cache, CausalLM

RUNNING, STOP, LENGTH = 0, 1, 2
"""Why a row ended: it has not, at an end token or a stop string, at its number of tokens."""


class DecodingState(NamedTuple):
    """All there is between two tokens."""

    keys_values: tuple[tf.Tensor, ...]
    """each layer's cache, `[2, B, kv heads, S, D]`"""
    prompt_lengths: tf.Tensor
    """int32 [B]"""
    prompt_slots: tf.Tensor
    """int32 scalar: P, the slots of the prompts"""
    limits: tf.Tensor
    """int32 [B]: the most tokens a row may get"""
    step: tf.Tensor
    """int32 scalar: tokens chosen so far"""
    token: tf.Tensor
    """int32 [B]: the last token, not yet in the cache"""
    counts: tf.Tensor
    """int32 [B]: tokens of each row; an end token is not counted"""
    ends: tf.Tensor
    """int32 [B]: RUNNING, STOP or LENGTH"""
    seen: tf.Tensor
    """bool [B, V]: tokens of the prompt and the text"""
    text: tf.Tensor
    """string [B]: the bytes of the text so far"""


class StopRule(Protocol):
    """Tells from the text's bytes whether a row is to end."""

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """String `[B]` to bool `[B]`."""


def begin(
    model: CausalLM,
    prompts: tf.RaggedTensor,
    limits: tf.Tensor,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
) -> DecodingState:
    """Run the prompts through the model and choose each row's first token.

    Args:
        model: the model.
        prompts: int32 `[B, (P)]`, each with at least one token; no longer than the context.
        limits: int32 `[B]`: the most tokens a row may get; 0 for a row that is to do nothing.
        options: of the sampling.
        end_token_ids: int32 `[E]`: a row that chooses one of them ends.
        token_bytes: string `[V]`.
        stops: of the text.

    Returns:
        the state after the first token.
    """
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    prompt_slots = tf.maximum(tf.reduce_max(lengths), 1)  # of no rows at all: not the least int
    token_ids = prompts.to_tensor(shape=[None, None])
    batch, width = tf.unstack(tf.shape(token_ids))
    token_ids = tf.pad(token_ids, [[0, 0], [0, prompt_slots - width]])  # of no rows, again
    context = model.config.max_sequence_length
    limits = tf.minimum(limits, tf.maximum(context - lengths, 0))
    most = tf.maximum(tf.reduce_max(limits), 1)
    cache = model.empty_cache(batch, prompt_slots + most)
    hidden, cache = model.hidden_states(token_ids, cache=cache)
    logits = model.logits(tf.gather(hidden, lengths - 1, axis=1, batch_dims=1))
    vocab_size = token_bytes.shape[0]
    seen = tf.scatter_nd(
        tf.stack([tf.cast(prompts.value_rowids(), tf.int32), prompts.flat_values], 1),
        tf.ones_like(prompts.flat_values),
        [batch, vocab_size],
    )
    state = DecodingState(
        keys_values=cache.keys_values,
        prompt_lengths=lengths,
        prompt_slots=prompt_slots,
        limits=limits,
        step=tf.constant(0),
        token=tf.zeros([batch], tf.int32),
        counts=tf.zeros([batch], tf.int32),
        ends=tf.where(limits > 0, RUNNING, LENGTH),
        seen=seen > 0,
        text=tf.fill([batch], ""),
    )
    return _choose(
        state, logits, options, end_token_ids=end_token_ids, token_bytes=token_bytes, stops=stops
    )


def advance(
    model: CausalLM,
    state: DecodingState,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
) -> DecodingState:
    """Put the last token into the cache and choose the next one, in every row."""
    slot = state.prompt_slots + state.step - 1
    num_slots = tf.shape(state.keys_values[0])[3]
    slots = tf.range(num_slots)
    own_prompt = slots < state.prompt_lengths[:, tf.newaxis]
    allowed = own_prompt | ((slots >= state.prompt_slots) & (slots <= slot))
    positions = state.prompt_lengths + state.step - 1
    if model.config.positions == "learned":
        # A row that has ended at the context goes on counting while others run.
        positions = tf.minimum(positions, model.config.max_sequence_length - 1)
    hidden, cache = model.hidden_states(
        state.token[:, tf.newaxis],
        positions=positions[:, tf.newaxis],
        bias=bias_of(allowed, model.compute_dtype)[:, tf.newaxis, tf.newaxis],
        cache=Cache(state.keys_values, slot),
    )
    logits = model.logits(hidden[:, 0])
    return _choose(
        state._replace(keys_values=cache.keys_values),
        logits,
        options,
        end_token_ids=end_token_ids,
        token_bytes=token_bytes,
        stops=stops,
    )


def _choose(
    state: DecodingState,
    logits: tf.Tensor,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
) -> DecodingState:
    # A model may have more classes than its tokenizer has tokens (rounded up for speed).
    logits = logits[:, : token_bytes.shape[0]]
    token = next_tokens(logits, options, state.step, state.seen)
    running = state.ends == RUNNING
    ended = tf.reduce_any(token[:, tf.newaxis] == end_token_ids, axis=-1)
    taken = running & ~ended
    counts = state.counts + tf.cast(taken, tf.int32)
    pieces = tf.where(taken, tf.gather(token_bytes, token), "")
    text = tf.strings.join([state.text, pieces])
    ends = tf.where(running & ended, STOP, state.ends)
    ends = tf.where(taken & (counts >= state.limits), LENGTH, ends)
    ends = tf.where(taken & stops(text), STOP, ends)
    rows = tf.range(tf.shape(token)[0])
    return state._replace(
        step=state.step + 1,
        token=token,
        counts=counts,
        ends=ends,
        seen=tf.tensor_scatter_nd_update(
            state.seen, tf.stack([rows, token], 1), tf.fill(tf.shape(token), True)
        ),
        text=text,
    )


def decode(
    model: CausalLM,
    prompts: tf.RaggedTensor,
    limits: tf.Tensor,
    options: SamplingOptions,
    *,
    end_token_ids: tf.Tensor,
    token_bytes: tf.Tensor,
    stops: StopRule,
) -> DecodingState:
    """Generate until every row has ended. Arguments as `begin`."""
    rules = {"end_token_ids": end_token_ids, "token_bytes": token_bytes, "stops": stops}
    state = begin(model, prompts, limits, options, **rules)
    (state,) = tf.while_loop(
        lambda state: tf.reduce_any(state.ends == RUNNING),
        lambda state: (advance(model, state, options, **rules),),
        (state,),
        parallel_iterations=1,
    )
    return state
