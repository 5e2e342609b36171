"""Generation with a `CausalLM`: all rows write the cache at the same index.

Prompts are padded on the right. All rows write the same cache indices; a row's positions count its
own tokens, and entries that are not its own (the gap after a shorter prompt, drafted tokens that
other rows accepted and it did not) are masked. So a row gives the same result alone and in a batch
with other lengths.

The beams of a row share the entries of its prompt, and each sees those of its own text
(`beam_cache_indices`).

Shape letters: B batch, P longest prompt, S length of the cache (P and the capacity for new tokens),
V vocabulary, T last token and drafted tokens, K beams of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.generation.beam_cache_indices import BeamCacheIndices, initial_indices
from tfllm.generation.decoding import DecodingState, NextLogits, added_capacity, initial_capacity
from tfllm.generation.prompt_lookup import LEAST_MATCH
from tfllm.layers.masks import bias_of
from tfllm.layers.quantized import is_int8
from tfllm.models.causal_lm import Cache, CausalLM
from tfllm.optimization.linear_cross_entropy import token_losses

NOT_OWN = 2**31 - 1
"""position of an entry that is not a token of the row: no query is so far"""


class CausalLMCache(NamedTuple):
    """The cache of the tokens so far."""

    keys_values: tuple[tf.Tensor, ...]
    """each layer's cache, `[2, B, kv heads, S, D]`"""
    prompt_length: tf.Tensor
    """int32 scalar: P, the length of the prompts in the cache"""
    next_index: tf.Tensor
    """int32 scalar: the next cache index to write"""
    positions: tf.Tensor = ()
    """int32 `[B, S]`: each entry's position in its row, or `NOT_OWN`; not in a beam search"""
    token_ids: tf.Tensor = ()
    """int32 `[B, S]`: the tokens of each row by their positions, without the last one of its text;
    not in a beam search"""
    match_lengths: tf.Tensor = ()
    """int32 `[B]`: see `prompt_lookup.DraftDecoder`; not in a beam search"""
    beams: BeamCacheIndices | tuple[()] = ()
    """in a beam search: the entries that each beam sees; then B counts prompts rather than beams"""


class CausalLMDecoder:
    """The `Decoder` of a `CausalLM`.

    Args:
        model: The model. If its weights are stored in another dtype than that of computation (a
            mixed-precision policy), a copy in the latter is made, because otherwise all weights
            would be converted for each token.
    """

    continues_prompts = True
    never_generated = ()

    def __init__(self, model: CausalLM) -> None:
        if model.compute_dtype != model.variable_dtype:
            model = model.with_dtype(model.compute_dtype)
        self.model = model
        self.vocab_size: int = model.config.vocab_size
        self.context: int = model.config.max_sequence_length
        self.dtype: str = "int8" if is_int8(model.dtype_policy) else model.compute_dtype
        self.cache_structure = CausalLMCache((0,) * len(model.blocks), 0, 0, 0, 0, 0)

    @property
    def weights(self) -> list[tf.Variable]:
        """The model's variables."""
        return [weight.value for weight in self.model.weights]

    def with_dtype(self, dtype: str) -> CausalLMDecoder:
        """The same model with weights and computation in another dtype."""
        return CausalLMDecoder(self.model.with_dtype(dtype))

    def begin(self, state: DecodingState, prompts: tf.RaggedTensor) -> NextLogits:
        """Run all prompts at once."""
        lengths = state.prompt_lengths
        prompt_length = tf.maximum(tf.reduce_max(lengths), 1)  # reduce_max of no rows is negative
        token_ids = prompts.to_tensor(shape=[None, None])
        batch, width = tf.unstack(tf.shape(token_ids))
        token_ids = tf.pad(token_ids, [[0, 0], [0, prompt_length - width]])  # for no rows, again
        capacity = initial_capacity(state.limits)
        cache = self.model.empty_cache(batch, prompt_length + capacity)
        hidden, cache = self.model.hidden_states(token_ids, cache=cache)
        logits = self.model.logits(tf.gather(hidden, lengths - 1, axis=1, batch_dims=1))
        indices = tf.range(prompt_length + capacity)
        positions = tf.where(indices < lengths[:, tf.newaxis], indices, NOT_OWN)
        token_ids = tf.pad(token_ids, [[0, 0], [0, capacity]])
        begun = CausalLMCache(
            cache.keys_values,
            prompt_length,
            next_index=prompt_length,
            positions=positions,
            token_ids=token_ids,
            match_lengths=tf.fill(tf.shape(lengths), LEAST_MATCH),
        )
        return NextLogits(begun, logits)

    def fits_cache(self, state: DecodingState) -> tf.Tensor:
        """Whether the last token fits in the cache."""
        return state.cache.next_index < tf.shape(state.cache.keys_values[0])[3]

    def extended_cache(self, state: DecodingState) -> CausalLMCache:
        """The cache, extended if the last token does not fit."""
        cache = state.cache
        num_entries = tf.shape(cache.keys_values[0])[3] - cache.prompt_length
        num_beams = cache.beams.num_beams if cache.beams else 1
        capacity = num_entries // num_beams
        # Rows that accepted fewer drafted tokens than others have used entries without a token, so
        # what counts is the number of tokens that they still need, besides the last one.
        needed = capacity + 1 + tf.maximum(state.limits - state.step, 0)
        added = added_capacity(capacity, needed)
        added = tf.where(self.fits_cache(state), 0, added)
        extended = self._extended(cache, num_beams * added)
        return extended._replace(beams=cache.beams.extended(added)) if cache.beams else extended

    def _extended(self, cache: CausalLMCache, added: tf.Tensor) -> CausalLMCache:
        """Append so many empty entries to the cache."""
        padding = tf.pad(tf.reshape(added, [1, 1]), [[3, 1], [1, 0]])  # at the end of the time axis
        two, batch, heads, _, dim = cache.keys_values[0].shape
        if not cache.beams:
            at_end = tf.pad(tf.reshape(added, [1, 1]), [[1, 0], [1, 0]])
            cache = cache._replace(
                positions=tf.pad(cache.positions, at_end, constant_values=NOT_OWN),
                token_ids=tf.pad(cache.token_ids, at_end),
            )
        return cache._replace(
            keys_values=tuple(
                tf.ensure_shape(tf.pad(layer, padding), [two, batch, heads, None, dim])
                for layer in cache.keys_values
            )
        )

    def repeated(self, cache: CausalLMCache, num: int) -> CausalLMCache:
        """The cache for `num` beams of each row, with that many times as many empty entries."""
        _, batch, _, length, _ = tf.unstack(tf.shape(cache.keys_values[0]))
        capacity = length - cache.prompt_length
        cache = self._extended(cache, (num - 1) * capacity)
        beams = initial_indices(batch, num, capacity)
        return cache._replace(positions=(), token_ids=(), match_lengths=(), beams=beams)

    def reordered(self, cache: CausalLMCache, parents: tf.Tensor) -> CausalLMCache:
        """The cache in which each beam sees the entries of the one that it continues."""
        assert cache.beams
        return cache._replace(beams=cache.beams.reordered(parents))

    def step(self, state: DecodingState) -> NextLogits:
        """Write the last token of all rows at the next cache index, or indices."""
        if state.cache.beams:
            return self._beam_step(state)
        cache: CausalLMCache = state.cache
        position = self._last_positions(state)[:, tf.newaxis]
        indices = tf.range(tf.shape(cache.positions)[1])
        cache = cache._replace(
            positions=tf.where(indices == cache.next_index, position, cache.positions),
            token_ids=tf.where(indices == position, state.token[:, tf.newaxis], cache.token_ids),
        )
        hidden, keys_values = self._run(state.token[:, tf.newaxis], position, cache)
        return NextLogits(
            cache._replace(keys_values=keys_values, next_index=cache.next_index + 1),
            self.model.logits(hidden[:, 0]),
        )

    def own_tokens(self, state: DecodingState) -> tuple[tf.Tensor, tf.Tensor]:
        """The tokens of each row's prompt and text, int32 `[B, S]`, and their numbers `[B]`."""
        last = self._last_positions(state)
        indices = tf.range(tf.shape(state.cache.token_ids)[1])
        is_last = indices == last[:, tf.newaxis]
        return tf.where(is_last, state.token[:, tf.newaxis], state.cache.token_ids), last + 1

    def num_fitting_drafts(self, state: DecodingState) -> tf.Tensor:
        """Number of tokens that fit in the cache after the last one."""
        return tf.shape(state.cache.positions)[1] - state.cache.next_index - 1

    def draft_logits(
        self, state: DecodingState, drafts: tf.Tensor, counts: tf.Tensor
    ) -> NextLogits:
        """Write the last token and the drafted ones of all rows at the next cache indices."""
        cache = state.cache
        tokens = tf.concat([state.token[:, tf.newaxis], drafts], axis=1)
        num = tf.shape(tokens)[1]
        first = self._last_positions(state)[:, tf.newaxis]
        indices = tf.range(tf.shape(cache.positions)[1])
        number = indices - cache.next_index  # of the token at an index: 0 is the last one
        positions = tf.where(number <= counts[:, tf.newaxis], first + number, NOT_OWN)
        place = indices - first
        token_ids = tf.gather(tokens, tf.clip_by_value(place, 0, num - 1), batch_dims=1)
        cache = cache._replace(
            positions=tf.where((number >= 0) & (number < num), positions, cache.positions),
            token_ids=tf.where((place >= 0) & (place < num), token_ids, cache.token_ids),
        )
        hidden, keys_values = self._run(tokens, first + tf.range(num), cache)
        logits = self.model.logits(tf.reshape(hidden, [-1, self.model.config.embedding_dim]))
        logits = tf.reshape(logits, [-1, num, logits.shape[1]])
        return NextLogits(cache._replace(keys_values=keys_values), logits)

    def with_accepted(self, cache: CausalLMCache, counts: tf.Tensor) -> CausalLMCache:
        """The cache in which each row keeps its first `counts` of the tokens that were run.

        The next index follows the most tokens of a row; other rows do not see the entries between.
        """
        own = tf.range(tf.shape(cache.positions)[1]) < cache.next_index + counts[:, tf.newaxis]
        return cache._replace(
            positions=tf.where(own, cache.positions, NOT_OWN),
            next_index=cache.next_index + tf.reduce_max(counts),
        )

    def _last_positions(self, state: DecodingState) -> tf.Tensor:
        """The position of each row's last token, int32 `[B]`."""
        return state.prompt_lengths + state.step - 1

    def _run(
        self, token_ids: tf.Tensor, positions: tf.Tensor, cache: CausalLMCache
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Run tokens `[B, T]` at the next cache indices.

        Args:
            token_ids: int32 `[B, T]`.
            positions: int32 `[B, T]`, positions of the tokens in their rows.
            cache: The cache, whose `positions` include those of the tokens.

        Returns:
            The normalized states `[B, T, E]`, and the keys and values with those of the tokens.
        """
        config = self.model.config
        keys, queries = cache.positions[:, tf.newaxis], positions[:, :, tf.newaxis]
        allowed = keys <= queries
        windows = [config.has_window(i) for i in range(config.num_layers)]
        bias = window_bias = None
        if not all(windows):
            bias = bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis]
        if any(windows):
            near = allowed & (queries - keys < config.sliding_window)
            window_bias = bias_of(near, self.model.compute_dtype)[:, tf.newaxis]
        if config.positions == "learned":
            # A row that has ended at the context keeps counting while others continue, and a draft
            # that is shorter than others is padded.
            positions = tf.minimum(positions, self.context - 1)
        hidden, written = self.model.hidden_states(
            token_ids,
            positions=positions,
            bias=bias,
            window_bias=window_bias,
            cache=Cache(cache.keys_values, cache.next_index),
        )
        return hidden, written.keys_values

    def _beam_step(self, state: DecodingState) -> NextLogits:
        """Write the last tokens of each row's beams at its next indices."""
        cache = state.cache
        prompt_length, index, beams = cache.prompt_length, cache.next_index, cache.beams
        num, config = beams.num_beams, self.model.config
        token_index = (index - prompt_length) // num
        lengths = tf.reshape(state.prompt_lengths, [-1, num])[:, :1]
        beams = beams.with_token(token_index)
        own_prompt = tf.range(prompt_length) < lengths
        own_prompt = tf.repeat(own_prompt[:, tf.newaxis], num, axis=1)
        allowed = tf.concat([own_prompt, beams.visible(token_index)], -1)
        windows = [config.has_window(i) for i in range(config.num_layers)]
        bias = window_bias = None
        if not all(windows):
            bias = bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis]
        positions = lengths + token_index
        if any(windows):
            num_new = tf.shape(allowed)[2] - prompt_length
            prompt_positions = tf.zeros_like(lengths) + tf.range(prompt_length)
            key_positions = tf.concat([prompt_positions, lengths + tf.range(num_new) // num], 1)
            near = allowed & (positions - key_positions < config.sliding_window)[:, tf.newaxis]
            window_bias = bias_of(near, self.model.compute_dtype)[:, tf.newaxis]
        if config.positions == "learned":
            positions = tf.minimum(positions, self.context - 1)
        hidden, written = self.model.hidden_states(
            tf.reshape(state.token, [-1, num]),
            positions=tf.repeat(positions, num, axis=1),
            bias=bias,
            window_bias=window_bias,
            cache=Cache(cache.keys_values, index),
        )
        logits = self.model.logits(tf.reshape(hidden, [-1, config.embedding_dim]))
        return NextLogits(
            cache._replace(keys_values=written.keys_values, next_index=index + num, beams=beams),
            logits,
        )

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The negative log-probability of each label, without storing all logits."""
        hidden, _ = self.model.hidden_states(token_ids)
        losses = token_losses(
            tf.reshape(hidden, [-1, self.model.config.embedding_dim]),
            self.model.output_weights,
            tf.reshape(labels, [-1]),
        )
        return tf.reshape(losses, tf.shape(labels))
