"""Generation with a `CausalLM`: all rows write the cache at the same index.

Prompts are padded on the right. All rows write the same cache indices; a row's positions count its
own tokens, and entries that are not its own (the gap after a shorter prompt) are masked. So a row
gives the same result alone and in a batch with other lengths.

The beams of a row share the entries of its prompt, and each sees those of its own text
(`beam_cache_indices`).

Shape letters: B batch, P longest prompt, S length of the cache (P and the capacity for new tokens),
V vocabulary, K beams of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.generation.beam_cache_indices import BeamCacheIndices, initial_indices
from tfllm.generation.decoding import DecodingState, NextLogits, added_capacity, initial_capacity
from tfllm.layers.masks import bias_of
from tfllm.layers.quantized import is_int8
from tfllm.models.causal_lm import Cache, CausalLM
from tfllm.optimization.linear_cross_entropy import token_losses


class CausalLMCache(NamedTuple):
    """The cache of the tokens so far."""

    keys_values: tuple[tf.Tensor, ...]
    """each layer's cache, `[2, B, kv heads, S, D]`"""
    prompt_length: tf.Tensor
    """int32 scalar: P, the length of the prompts in the cache"""
    next_index: tf.Tensor
    """int32 scalar: the next cache index to write"""
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
        self.cache_structure = CausalLMCache((0,) * len(model.blocks), 0, 0)

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
        cache = self.model.empty_cache(batch, prompt_length + initial_capacity(state.limits))
        hidden, cache = self.model.hidden_states(token_ids, cache=cache)
        logits = self.model.logits(tf.gather(hidden, lengths - 1, axis=1, batch_dims=1))
        return NextLogits(CausalLMCache(cache.keys_values, prompt_length, prompt_length), logits)

    def fits_cache(self, state: DecodingState) -> tf.Tensor:
        """Whether the last token fits in the cache."""
        return state.cache.next_index < tf.shape(state.cache.keys_values[0])[3]

    def extended_cache(self, state: DecodingState) -> CausalLMCache:
        """The cache, extended if the last token does not fit."""
        cache = state.cache
        num_entries = tf.shape(cache.keys_values[0])[3] - cache.prompt_length
        num_beams = cache.beams.num_beams if cache.beams else 1
        added = added_capacity(num_entries // num_beams, state.limits)
        added = tf.where(self.fits_cache(state), 0, added)
        extended = self._extended(cache, num_beams * added)
        return extended._replace(beams=cache.beams.extended(added)) if cache.beams else extended

    def _extended(self, cache: CausalLMCache, added: tf.Tensor) -> CausalLMCache:
        """Append so many empty entries to the cache."""
        padding = tf.pad(tf.reshape(added, [1, 1]), [[3, 1], [1, 0]])  # at the end of the time axis
        two, batch, heads, _, dim = cache.keys_values[0].shape
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
        return cache._replace(beams=initial_indices(batch, num, capacity))

    def reordered(self, cache: CausalLMCache, parents: tf.Tensor) -> CausalLMCache:
        """The cache in which each beam sees the entries of the one that it continues."""
        assert cache.beams
        return cache._replace(beams=cache.beams.reordered(parents))

    def step(self, state: DecodingState) -> NextLogits:
        """Write the last token of all rows at the next cache index, or indices."""
        if state.cache.beams:
            return self._beam_step(state)
        keys_values, prompt_length, index, _ = state.cache
        indices = tf.range(tf.shape(keys_values[0])[3])
        own_prompt = indices < state.prompt_lengths[:, tf.newaxis]
        allowed = own_prompt | ((indices >= prompt_length) & (indices <= index))
        positions = state.prompt_lengths + index - prompt_length
        bias, window_bias = self._biases(allowed, positions, state)
        if self.model.config.positions == "learned":
            # A row that has ended at the context keeps counting while others continue.
            positions = tf.minimum(positions, self.context - 1)
        hidden, cache = self.model.hidden_states(
            state.token[:, tf.newaxis],
            positions=positions[:, tf.newaxis],
            bias=bias,
            window_bias=window_bias,
            cache=Cache(keys_values, index),
        )
        return NextLogits(
            CausalLMCache(cache.keys_values, prompt_length, index + 1),
            self.model.logits(hidden[:, 0]),
        )

    def _biases(
        self, allowed: tf.Tensor, positions: tf.Tensor, state: DecodingState
    ) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """The masks of the blocks that see all entries `allowed`, and of those with a window."""
        config = self.model.config
        windows = [config.has_window(i) for i in range(config.num_layers)]
        bias = window_bias = None
        if not all(windows):
            bias = bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis, tf.newaxis]
        if any(windows):
            # A window counts a row's own tokens: a prompt's indices are its positions, new tokens
            # are as far apart as their indices, and the gap after a shorter prompt does not count.
            _, prompt_length, index, _ = state.cache
            indices = tf.range(tf.shape(allowed)[1])
            own = tf.where(indices < prompt_length, positions[:, tf.newaxis], index)
            near = allowed & (own - indices < config.sliding_window)
            window_bias = bias_of(near, self.model.compute_dtype)[:, tf.newaxis, tf.newaxis]
        return bias, window_bias

    def _beam_step(self, state: DecodingState) -> NextLogits:
        """Write the last tokens of each row's beams at its next indices."""
        keys_values, prompt_length, index, beams = state.cache
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
        hidden, cache = self.model.hidden_states(
            tf.reshape(state.token, [-1, num]),
            positions=tf.repeat(positions, num, axis=1),
            bias=bias,
            window_bias=window_bias,
            cache=Cache(keys_values, index),
        )
        logits = self.model.logits(tf.reshape(hidden, [-1, config.embedding_dim]))
        return NextLogits(
            CausalLMCache(cache.keys_values, prompt_length, index + num, beams), logits
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
