"""Generation with an `EncoderDecoder`, whose sources are the prompts.

The encoder's outputs, and the keys and values that each block of the decoder computes from them,
are computed once. A row's beams share them, and share a cache of their own texts (`beam_slots`): in
a step, attention treats the beams of a row as a few queries of one row, so that nothing is copied
when beams are reordered. All texts begin together, so every row's last token has the same position;
padding in a source is masked, and a row gives the same result alone and in a batch.

Shape letters: B sources, K texts of each (1, or the beams), S length of the cache, E width, V
vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.generation.beam_slots import BeamSlots, first_slots
from tfllm.generation.decoding import DecodingState, NextLogits, first_room, more_room
from tfllm.layers.masks import bias_of
from tfllm.layers.quantized import is_int8
from tfllm.models.encoder_decoder import EncodedSource, EncoderDecoder


class SourceAndText(NamedTuple):
    """The sources for the decoder, and the keys and values of the texts so far."""

    source: EncodedSource
    """of B rows; a row's beams share it"""
    caches: tuple[tf.Tensor, ...]
    """each block's cache, `[2, B, heads, S, D]`; a token has K adjacent entries"""
    slot: tf.Tensor
    """int32 scalar: the next cache index to write"""
    beams: BeamSlots | tuple[()] = ()
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
        self.memory_structure = SourceAndText(EncodedSource(pairs, 0), (0,) * len(pairs), 0)

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
        caches = self.model.empty_caches(batch, first_room(state.limits))
        memory = SourceAndText(source, caches, tf.constant(0))
        start = tf.fill([batch], self.model.config.decoder_start_token_id)
        return self._next(memory, start)

    def has_room(self, state: DecodingState) -> tf.Tensor:
        """Whether the caches have room for the last token."""
        return state.memory.slot < tf.shape(state.memory.caches[0])[3]

    def with_room(self, state: DecodingState) -> SourceAndText:
        """The cache, extended if it has no room for the last token."""
        memory = state.memory
        num = memory.beams.num if memory.beams else 1
        room = tf.shape(memory.caches[0])[3] // num
        more = tf.where(self.has_room(state), 0, more_room(room, state.limits))
        memory = self._lengthened(memory, num * more)
        return memory._replace(beams=memory.beams.lengthened(more)) if memory.beams else memory

    def _lengthened(self, memory: SourceAndText, more: tf.Tensor) -> SourceAndText:
        padding = tf.pad(tf.reshape(more, [1, 1]), [[3, 1], [1, 0]])  # at the end of the time axis
        two, batch, heads, _, dim = memory.caches[0].shape
        return memory._replace(
            caches=tuple(
                tf.ensure_shape(tf.pad(cache, padding), [two, batch, heads, None, dim])
                for cache in memory.caches
            )
        )

    def repeated(self, memory: SourceAndText, num: int) -> SourceAndText:
        """The cache for `num` beams of each row, after the first token.

        Its single token becomes the first of `num` entries, which all beams see.
        """
        room = tf.shape(memory.caches[0])[3]
        batch = tf.shape(memory.caches[0])[1]
        if num == 1:
            return memory._replace(beams=first_slots(batch, num, room))
        caches = []
        for cache in memory.caches:
            first = tf.pad(cache[:, :, :, :1], [[0, 0]] * 3 + [[0, num * room - 1], [0, 0]])
            two, rows, heads, _, dim = cache.shape
            caches.append(tf.ensure_shape(first, [two, rows, heads, None, dim]))
        return SourceAndText(
            memory.source, tuple(caches), num * memory.slot, first_slots(batch, num, room)
        )

    def reordered(self, memory: SourceAndText, parents: tf.Tensor) -> SourceAndText:
        """The cache in which each beam sees the entries of the one that it continues."""
        assert memory.beams
        return memory._replace(beams=memory.beams.reordered(parents))

    def step(self, state: DecodingState) -> NextLogits:
        """Write the last token of all texts at the next cache index, or indices."""
        return self._next(state.memory, state.token)

    def _next(self, memory: SourceAndText, token: tf.Tensor) -> NextLogits:
        source, caches, slot, beams = memory
        slots = tf.range(tf.shape(caches[0])[3])
        if beams:
            num = beams.num
            place, key_places = slot // num, slots // num
            beams = beams.with_token(place)
            allowed = beams.visible(place)
        else:
            num, place, key_places = 1, slot, slots
            allowed = (slots <= slot)[tf.newaxis, tf.newaxis]
        states, caches = self.model.next_states(
            tf.reshape(token, [-1, num]),
            source,
            caches,
            slot,
            place=place,
            key_places=key_places,
            mask=bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis],
        )
        logits = self.model.logits(states)
        return NextLogits(SourceAndText(source, caches, slot + num, beams), logits)

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
