"""Generation with a `CausalLM`: all rows write the cache at the same index.

Prompts are padded on the right. All rows write the same cache indices; a row's positions count its
own tokens, and entries that are not its own (the gap after a shorter prompt) are masked. So a row
gives the same result alone and in a batch with other lengths.

The beams of a row share the entries of its prompt, and each sees those of its own text
(`beam_slots`).

Shape letters: B batch, P longest prompt, S length of the cache (P and the room for new tokens), V
vocabulary, K beams of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.generation.beam_slots import BeamSlots, first_slots
from tfllm.generation.decoding import DecodingState, NextLogits, first_room, more_room
from tfllm.layers.masks import bias_of
from tfllm.layers.quantized import is_int8
from tfllm.models.causal_lm import Cache, CausalLM
from tfllm.optimization.linear_cross_entropy import token_losses


class Slots(NamedTuple):
    """The keys and values of the tokens so far."""

    keys_values: tuple[tf.Tensor, ...]
    """each layer's cache, `[2, B, kv heads, S, D]`"""
    prompt_slots: tf.Tensor
    """int32 scalar: P, the length of the prompts in the cache"""
    slot: tf.Tensor
    """int32 scalar: the next cache index to write"""
    beams: BeamSlots | tuple[()] = ()
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
        self.memory_structure = Slots((0,) * len(model.blocks), 0, 0)

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
        prompt_slots = tf.maximum(tf.reduce_max(lengths), 1)  # reduce_max of no rows is negative
        token_ids = prompts.to_tensor(shape=[None, None])
        batch, width = tf.unstack(tf.shape(token_ids))
        token_ids = tf.pad(token_ids, [[0, 0], [0, prompt_slots - width]])  # for no rows, again
        cache = self.model.empty_cache(batch, prompt_slots + first_room(state.limits))
        hidden, cache = self.model.hidden_states(token_ids, cache=cache)
        logits = self.model.logits(tf.gather(hidden, lengths - 1, axis=1, batch_dims=1))
        return NextLogits(Slots(cache.keys_values, prompt_slots, prompt_slots), logits)

    def has_room(self, state: DecodingState) -> tf.Tensor:
        """Whether the cache has room for the last token."""
        return state.memory.slot < tf.shape(state.memory.keys_values[0])[3]

    def with_room(self, state: DecodingState) -> Slots:
        """The cache, extended if it has no room for the last token."""
        memory = state.memory
        room = tf.shape(memory.keys_values[0])[3] - memory.prompt_slots
        num = memory.beams.num if memory.beams else 1  # entries of each token
        more = tf.where(self.has_room(state), 0, more_room(room // num, state.limits))
        longer = self._lengthened(memory, num * more)
        return longer._replace(beams=memory.beams.lengthened(more)) if memory.beams else longer

    def _lengthened(self, memory: Slots, more: tf.Tensor) -> Slots:
        """Append so many empty entries to the cache."""
        padding = tf.pad(tf.reshape(more, [1, 1]), [[3, 1], [1, 0]])  # at the end of the time axis
        two, batch, heads, _, dim = memory.keys_values[0].shape
        return memory._replace(
            keys_values=tuple(
                tf.ensure_shape(tf.pad(layer, padding), [two, batch, heads, None, dim])
                for layer in memory.keys_values
            )
        )

    def repeated(self, memory: Slots, num: int) -> Slots:
        """The cache for `num` beams of each row, with that many times as many empty entries."""
        _, batch, _, slots, _ = tf.unstack(tf.shape(memory.keys_values[0]))
        room = slots - memory.prompt_slots
        memory = self._lengthened(memory, (num - 1) * room)
        return memory._replace(beams=first_slots(batch, num, room))

    def reordered(self, memory: Slots, parents: tf.Tensor) -> Slots:
        """The cache in which each beam sees the entries of the one that it continues."""
        assert memory.beams
        return memory._replace(beams=memory.beams.reordered(parents))

    def step(self, state: DecodingState) -> NextLogits:
        """Write the last token of all rows at the next cache index, or indices."""
        if state.memory.beams:
            return self._beam_step(state)
        keys_values, prompt_slots, slot, _ = state.memory
        slots = tf.range(tf.shape(keys_values[0])[3])
        own_prompt = slots < state.prompt_lengths[:, tf.newaxis]
        allowed = own_prompt | ((slots >= prompt_slots) & (slots <= slot))
        positions = state.prompt_lengths + slot - prompt_slots
        bias, window_bias = self._biases(allowed, positions, state)
        if self.model.config.positions == "learned":
            # A row that has ended at the context keeps counting while others continue.
            positions = tf.minimum(positions, self.context - 1)
        hidden, cache = self.model.hidden_states(
            state.token[:, tf.newaxis],
            positions=positions[:, tf.newaxis],
            bias=bias,
            window_bias=window_bias,
            cache=Cache(keys_values, slot),
        )
        return NextLogits(
            Slots(cache.keys_values, prompt_slots, slot + 1), self.model.logits(hidden[:, 0])
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
            _, prompt_slots, slot, _ = state.memory
            slots = tf.range(tf.shape(allowed)[1])
            own = tf.where(slots < prompt_slots, positions[:, tf.newaxis], slot)
            near = allowed & (own - slots < config.sliding_window)
            window_bias = bias_of(near, self.model.compute_dtype)[:, tf.newaxis, tf.newaxis]
        return bias, window_bias

    def _beam_step(self, state: DecodingState) -> NextLogits:
        """Write the last tokens of each row's beams at its next indices."""
        keys_values, prompt_slots, slot, beams = state.memory
        num, config = beams.num, self.model.config
        place = (slot - prompt_slots) // num
        lengths = tf.reshape(state.prompt_lengths, [-1, num])[:, :1]
        beams = beams.with_token(place)
        own_prompt = tf.range(prompt_slots) < lengths
        own_prompt = tf.repeat(own_prompt[:, tf.newaxis], num, axis=1)
        allowed = tf.concat([own_prompt, beams.visible(place)], -1)
        windows = [config.has_window(i) for i in range(config.num_layers)]
        bias = window_bias = None
        if not all(windows):
            bias = bias_of(allowed, self.model.compute_dtype)[:, tf.newaxis]
        positions = lengths + place
        if any(windows):
            new_slots = tf.shape(allowed)[2] - prompt_slots
            of_prompt = tf.zeros_like(lengths) + tf.range(prompt_slots)
            of_slots = tf.concat([of_prompt, lengths + tf.range(new_slots) // num], 1)
            near = allowed & (positions - of_slots < config.sliding_window)[:, tf.newaxis]
            window_bias = bias_of(near, self.model.compute_dtype)[:, tf.newaxis]
        if config.positions == "learned":
            positions = tf.minimum(positions, self.context - 1)
        hidden, cache = self.model.hidden_states(
            tf.reshape(state.token, [-1, num]),
            positions=tf.repeat(positions, num, axis=1),
            bias=bias,
            window_bias=window_bias,
            cache=Cache(keys_values, slot),
        )
        logits = self.model.logits(tf.reshape(hidden, [-1, config.embedding_dim]))
        return NextLogits(Slots(cache.keys_values, prompt_slots, slot + num, beams), logits)

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The negative log-probability of each label, without storing all logits."""
        hidden, _ = self.model.hidden_states(token_ids)
        losses = token_losses(
            tf.reshape(hidden, [-1, self.model.config.embedding_dim]),
            self.model.output_weights,
            tf.reshape(labels, [-1]),
        )
        return tf.reshape(losses, tf.shape(labels))
