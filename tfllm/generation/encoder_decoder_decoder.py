"""Generation with an `EncoderDecoder`, whose sources are the prompts.

The encoder's outputs, and the keys and values that each block of the decoder computes from them,
are computed once. A row's beams share them, and share a cache of their own texts
(`beam_cache_indices`): in a step, attention treats the beams of a row as a few queries of one row,
so that nothing is copied when beams are reordered. All texts begin together, so every row's last
token has the same position; padding in a source is masked, and a row gives the same result alone
and in a batch.

Shape letters: B sources, K texts of each (1, or the beams), S length of the cache, E width, V
vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.generation.beam_cache_indices import BeamCacheIndices, initial_indices
from tfllm.generation.decoding import DecodingState, NextLogits, added_capacity, initial_capacity
from tfllm.layers.masks import bias_of
from tfllm.layers.quantized import is_int8
from tfllm.models.encoder_decoder import EncodedSource, EncoderDecoder


class EncoderDecoderCache(NamedTuple):
    """The sources for the decoder, and the keys and values of the texts so far."""

    source: EncodedSource
    """of B rows; a row's beams share it"""
    keys_values: tuple[tf.Tensor, ...]
    """each block's cache, `[2, B, heads, S, D]`; a token has K adjacent entries"""
    next_index: tf.Tensor
    """int32 scalar: the next cache index to write"""
    beams: BeamCacheIndices | tuple[()] = ()
    """in a beam search: the entries that each beam sees"""


class EncoderDecoderDecoder:
    """The `Decoder` of an `EncoderDecoder`.

    Args:
        model: The model. If its weights are stored in another dtype than that of computation, a
            copy in the latter is made, because otherwise all weights would be converted for each
            token.
    """

    continues_prompts = False

    def __init__(self, model: EncoderDecoder) -> None:
        if model.compute_dtype != model.variable_dtype:
            model = model.with_dtype(model.compute_dtype)
        config = model.config
        self.model = model
        self.vocab_size: int = config.vocab_size
        self.context: int = config.max_sequence_length
        self.never_generated: tuple[int, ...] = config.never_generated
        self.dtype: str = "int8" if is_int8(model.dtype_policy) else model.compute_dtype
        pairs = ((0, 0),) * len(model.decoder.blocks)
        self.cache_structure = EncoderDecoderCache(EncodedSource(pairs, 0), (0,) * len(pairs), 0)

    @property
    def weights(self) -> list[tf.Variable]:
        """The model's variables."""
        return [weight.value for weight in self.model.weights]

    def with_dtype(self, dtype: str) -> EncoderDecoderDecoder:
        """The same model with weights and computation in another dtype."""
        return EncoderDecoderDecoder(self.model.with_dtype(dtype))

    def begin(self, state: DecodingState, prompts: tf.RaggedTensor) -> NextLogits:
        """Encode the sources, and run the token with which every text begins."""
        longest = tf.maximum(tf.reduce_max(state.prompt_lengths), 1)  # reduce_max of no rows < 0
        source_ids = prompts.to_tensor(shape=[None, None])
        batch, width = tf.unstack(tf.shape(source_ids))
        source_ids = tf.pad(source_ids, [[0, 0], [0, longest - width]])
        source_mask = tf.sequence_mask(state.prompt_lengths, longest)
        source = self.model.encoded_source(source_ids, source_mask)
        caches = self.model.empty_caches(batch, initial_capacity(state.limits))
        cache = EncoderDecoderCache(source, caches, tf.constant(0))
        start = tf.fill([batch], self.model.config.decoder_start_token_id)
        return self._next(cache, start)

    def fits_cache(self, state: DecodingState) -> tf.Tensor:
        """Whether the last token fits in the caches."""
        return state.cache.next_index < tf.shape(state.cache.keys_values[0])[3]

    def extended_cache(self, state: DecodingState) -> EncoderDecoderCache:
        """The cache, extended if the last token does not fit."""
        cache = state.cache
        num_beams = cache.beams.num_beams if cache.beams else 1
        added = added_capacity(tf.shape(cache.keys_values[0])[3] // num_beams, state.limits)
        added = tf.where(self.fits_cache(state), 0, added)
        extended = self._extended(cache, num_beams * added)
        return extended._replace(beams=cache.beams.extended(added)) if cache.beams else extended

    def _extended(self, cache: EncoderDecoderCache, added: tf.Tensor) -> EncoderDecoderCache:
        padding = tf.pad(tf.reshape(added, [1, 1]), [[3, 1], [1, 0]])  # at the end of the time axis
        two, batch, heads, _, dim = cache.keys_values[0].shape
        return cache._replace(
            keys_values=tuple(
                tf.ensure_shape(tf.pad(layer, padding), [two, batch, heads, None, dim])
                for layer in cache.keys_values
            )
        )

    def repeated(self, cache: EncoderDecoderCache, num: int) -> EncoderDecoderCache:
        """The cache for `num` beams of each row, after the first token.

        Its single token becomes the first of `num` entries, which all beams see.
        """
        capacity = tf.shape(cache.keys_values[0])[3]
        batch = tf.shape(cache.keys_values[0])[1]
        if num == 1:
            return cache._replace(beams=initial_indices(batch, num, capacity))
        caches = []
        for layer in cache.keys_values:
            first = tf.pad(layer[:, :, :, :1], [[0, 0]] * 3 + [[0, num * capacity - 1], [0, 0]])
            two, rows, heads, _, dim = layer.shape
            caches.append(tf.ensure_shape(first, [two, rows, heads, None, dim]))
        return EncoderDecoderCache(
            cache.source,
            tuple(caches),
            num * cache.next_index,
            initial_indices(batch, num, capacity),
        )

    def reordered(self, cache: EncoderDecoderCache, parents: tf.Tensor) -> EncoderDecoderCache:
        """The cache in which each beam sees the entries of the one that it continues."""
        assert cache.beams
        return cache._replace(beams=cache.beams.reordered(parents))

    def step(self, state: DecodingState) -> NextLogits:
        """Write the last token of all texts at the next cache index, or indices."""
        return self._next(state.cache, state.token)

    def _next(self, cache: EncoderDecoderCache, token: tf.Tensor) -> NextLogits:
        source, caches, index, beams = cache
        indices = tf.range(tf.shape(caches[0])[3])
        if beams:
            num = beams.num_beams
            position, key_positions = index // num, indices // num
            beams = beams.with_token(position)
            allowed = beams.visible(position)
        else:
            num, position, key_positions = 1, index, indices
            allowed = (indices <= index)[tf.newaxis, tf.newaxis]
        states, caches = self.model.next_states(
            tf.reshape(token, [-1, num]),
            source,
            caches,
            index,
            position=position,
            key_positions=key_positions,
            mask=bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis],
        )
        logits = self.model.logits(states)
        return NextLogits(EncoderDecoderCache(source, caches, index + num, beams), logits)

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Raise an error: a text has no probability without its source.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "the probability of a text that an encoder-decoder gives depends on its source; "
            "beam search gives the scores of the texts that it finds, and model.evaluate the loss "
            "of pairs of sources and texts"
        )
