"""How generation runs a `CausalLM` of KerasHub: through its own cached call, whatever it is inside.

KerasHub has one place for all rows: `call_with_cache(tokens, cache, column)` takes the tokens of
one column of the batch, and the column is their position. Rows with prompts of different lengths
are therefore at different columns. Here all prompts go through the model at once, and each step
then takes the first column at which a row has something to be told: those rows get their next
token, and rows whose prompt reaches further are given the prompt's own token again, which changes
nothing. Where no row is left at the columns of the shorter prompts, they are jumped over. So a row
gets what it gets alone, steps are shared wherever rows overlap, and there are never more of them
than in KerasHub's own loop, which feeds the longer prompts token by token.

A cache with a recurrent state (Qwen 3.5's linear attention) cannot be given a token again: there
all rows begin behind the shortest prompt, and every column is a step.

Shape letters: B batch, P longest prompt, C columns of the cache, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfllm.generation.decoding import RUNNING, DecodingState, NextLogits, first_room, more_room
from tfllm.pretrained.keras_hub.models import in_one_dtype, with_dtype
from tfllm.pretrained.keras_hub.without_xla import without_xla

_NONE_LEFT = 2**31 - 1

_CHECKED = 6
"""tokens over which a model's cached call is held against its forward pass"""

_ROUNDING = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""by which share of their standard deviation logits may differ"""


class Columns(NamedTuple):
    """What KerasHub's model keeps of the tokens so far."""

    cache: tuple[tf.Tensor, ...]
    """its cache, flat"""
    prompts: tf.Tensor
    """int32 [B, P]"""
    column: tf.Tensor
    """int32 scalar: how many columns have been taken in turn"""


class KerasHubDecoder:
    """A `CausalLM` of KerasHub as generation sees it.

    Args:
        model: the model. Where its weights are stored in another type than they are used in, or
            hold LoRA's factors apart, a copy in one type with merged weights is run, because each
            token would convert and merge them anew.
        context: the most tokens of a text.

    Raises:
        ValueError: the model has no cached call that takes nothing but tokens.
    """

    continues_prompts = True
    never_generated = ()

    def __init__(self, model: Any, context: int) -> None:
        self._parameters = _build_parameters(model)
        self.model = model = in_one_dtype(model)
        self.context = context
        self.vocab_size: int = model.output.shape[-1]
        self.dtype: str = model.backbone.compute_dtype
        self._leaves, self._structure = _cache_leaves(self)
        self._recurrent = any(leaf.time_axis is None for leaf in self._leaves)
        self.memory_structure = Columns((0,) * len(self._leaves), 0, 0)
        _check_against_forward_pass(self)

    @property
    def weights(self) -> list[tf.Variable]:
        """The model's variables."""
        return [weight.value for weight in self.model.weights]

    def with_dtype(self, dtype: str) -> KerasHubDecoder:
        """The same model with weights and products of another dtype."""
        return KerasHubDecoder(with_dtype(self.model, dtype), self.context)

    def begin(self, state: DecodingState, prompts: tf.RaggedTensor) -> NextLogits:
        """Run all prompts at once, then the first of their last tokens."""
        lengths = state.prompt_lengths
        columns = tf.maximum(tf.reduce_max(lengths), 1)  # of no rows at all: not the least int
        token_ids = prompts.to_tensor(shape=[None, None])
        missing = columns - tf.shape(token_ids)[1]
        token_ids = tf.pad(token_ids, [[0, 0], [0, missing]])  # of no rows, again
        room = first_room(state.limits)
        if self._recurrent:
            shortest = tf.reduce_min(tf.where(state.ends == RUNNING, lengths, columns))
            cache, taken = self._one_by_one(token_ids, columns + room, shortest - 1)
        else:
            mask = tf.range(columns) < lengths[:, tf.newaxis]
            cache = tf.nest.flatten(self.build_cache(token_ids, mask))
            cache, taken = self._longer(cache, room), columns
        return self.step(state._replace(memory=Columns(cache, token_ids, taken)))

    def _one_by_one(
        self, token_ids: tf.Tensor, columns: tf.Tensor, taken: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """A cache of so many columns with the first tokens, and how many they are.

        A recurrent state must not see the padding behind a shorter prompt, and KerasHub's code for
        many tokens at once wants to know how many when it is traced.
        """

        def take(column: tf.Tensor, *cache: tf.Tensor) -> tuple[tf.Tensor, ...]:
            tokens = token_ids[:, column, tf.newaxis]
            return (column + 1, *self.call_with_cache(tokens, cache, column)[1])

        column, *cache = tf.while_loop(
            lambda column, *_: column < taken,
            take,
            (0, *self._empty(tf.shape(token_ids)[0], columns)),
            parallel_iterations=1,
        )
        return tuple(cache), column

    def has_room(self, state: DecodingState) -> tf.Tensor:
        """Whether the cache has the column that is next."""
        return self._next_column(state) < self._num_columns(state.memory.cache)

    def with_room(self, state: DecodingState) -> Columns:
        """The memory, its cache grown if it does not have the column that is next."""
        memory = state.memory
        room = self._num_columns(memory.cache) - tf.shape(memory.prompts)[1]
        more = tf.where(self.has_room(state), 0, more_room(room, state.limits))
        return memory._replace(cache=self._longer(memory.cache, more))

    def repeated(self, memory: Columns, num: int) -> Columns:
        """The memory for `num` beams of each row."""
        return Columns(
            self._shaped([tf.repeat(leaf, num, axis=0) for leaf in memory.cache]),
            tf.repeat(memory.prompts, num, axis=0),
            memory.column,
        )

    def reordered(self, memory: Columns, parents: tf.Tensor) -> Columns:
        """The memory of the beams that each one goes on from."""
        cache = self._shaped([tf.gather(leaf, parents) for leaf in memory.cache])
        return memory._replace(cache=cache)

    def step(self, state: DecodingState) -> NextLogits:
        """Take the next column of all rows."""
        cache, prompts, _ = state.memory
        positions = _positions(state)
        column = tf.minimum(self._next_column(state), self._num_columns(cache) - 1)
        prompt_column = tf.minimum(column, tf.shape(prompts)[1] - 1)
        at_column = positions == column
        tokens = tf.where(at_column, state.token, prompts[:, prompt_column])
        logits, cache = self.call_with_cache(tokens[:, tf.newaxis], cache, column)
        return NextLogits(
            Columns(cache, prompts, column + 1),
            logits[:, 0],
            taken=at_column & (state.ends == RUNNING),
        )

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The negative logarithm of each label's probability."""
        batch, time = tf.unstack(tf.shape(token_ids))
        empty = self._empty(batch, time)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        if not self._recurrent:
            logits, _ = self.call_with_cache(token_ids, empty, 0)
            return cross_entropy(labels=labels, logits=logits)

        def take(column: tf.Tensor, losses: Any, *cache: tf.Tensor) -> tuple[Any, ...]:
            logits, cache = self.call_with_cache(token_ids[:, column, tf.newaxis], cache, column)
            loss = cross_entropy(labels=labels[:, column], logits=logits[:, 0])
            return (column + 1, losses.write(column, loss), *cache)

        _, losses, *_ = tf.while_loop(
            lambda column, *_: column < time,
            take,
            (0, tf.TensorArray(tf.float32, time, element_shape=[None]), *empty),
            parallel_iterations=1,
        )
        return tf.transpose(losses.stack())

    # ------------------------------------------------------------------ KerasHub's functions

    def build_cache(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> Any:
        """The model's cache after int32 `[B, P]` tokens, whose mask is bool `[B, P]`."""
        arguments = dict.fromkeys(self._parameters) | {"token_ids": token_ids}
        if "padding_mask" in arguments:
            arguments["padding_mask"] = padding_mask
        with without_xla():
            return self.model._build_cache(**arguments)[1]

    def call_with_cache(
        self, token_ids: tf.Tensor, cache: tuple[tf.Tensor, ...], column: int | tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Logits, float32 `[B, T, V]`, of int32 `[B, T]` tokens from a column on, and the cache."""
        nested = tf.nest.pack_sequence_as(self._structure, cache)
        column = tf.convert_to_tensor(column, tf.int32)  # Keras's layers take no mix of kinds
        with without_xla():
            logits, _, nested = self.model.call_with_cache(token_ids, nested, column)
        return tf.cast(logits, tf.float32), self._shaped(tf.nest.flatten(nested))

    def _empty(self, batch: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, ...]:
        empty = []
        for leaf in self._leaves:
            sizes: list[Any] = [*leaf.shape]
            sizes[0] = batch
            if leaf.time_axis is not None:
                sizes[leaf.time_axis] = columns
            empty.append(tf.zeros(tf.stack(sizes), leaf.dtype))
        return self._shaped(empty)

    def _shaped(self, cache: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """The cache with the static shapes that a loop needs."""
        pairs = zip(cache, self._leaves, strict=True)
        return tuple(tf.ensure_shape(tensor, leaf.shape) for tensor, leaf in pairs)

    def _longer(self, cache: Sequence[tf.Tensor], more: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The cache with empty columns behind its own."""
        longer = []
        for tensor, leaf in zip(cache, self._leaves, strict=True):
            if leaf.time_axis is not None:
                around = [leaf.time_axis, len(leaf.shape) - 1 - leaf.time_axis]
                tensor = tf.pad(tensor, tf.pad(tf.reshape(more, [1, 1]), [around, [1, 0]]))
            longer.append(tensor)
        return self._shaped(longer)

    def _num_columns(self, cache: tuple[tf.Tensor, ...]) -> tf.Tensor:
        for tensor, leaf in zip(cache, self._leaves, strict=True):
            if leaf.time_axis is not None:
                return tf.shape(tensor)[leaf.time_axis]
        return tf.constant(_NONE_LEFT)  # nothing but recurrent states

    def _next_column(self, state: DecodingState) -> tf.Tensor:
        if self._recurrent:
            return state.memory.column
        return tf.reduce_min(tf.where(state.ends == RUNNING, _positions(state), _NONE_LEFT))


class _Leaf(NamedTuple):
    """A tensor of the cache: its shape, None for the batch and the columns."""

    shape: list[int | None]
    dtype: tf.DType
    time_axis: int | None


def _positions(state: DecodingState) -> tf.Tensor:
    """Of each row's last token, int32 `[B]`."""
    return state.prompt_lengths - 1 + state.step


def _build_parameters(model: Any) -> list[str]:
    """The parameters of `_build_cache`; those that are not about tokens are given None."""
    name = type(model).__name__
    for function in ("call_with_cache", "_build_cache"):
        if not callable(getattr(model, function, None)):
            raise ValueError(
                f"a KerasHub model must have {function} to be decoded with a cache; {name} has not"
            )
    parameters = inspect.signature(model.call_with_cache).parameters
    needed = {n for n, p in parameters.items() if p.default is p.empty}
    wanted = {"token_ids", "cache", "cache_update_index"}
    if needed != wanted:
        raise ValueError(
            f"call_with_cache must take {', '.join(sorted(wanted))} and need nothing else; "
            f"{name}'s needs {', '.join(sorted(needed))}"
        )
    return list(inspect.signature(model._build_cache).parameters)


def _cache_leaves(decoder: KerasHubDecoder) -> tuple[list[_Leaf], Any]:
    """What the cache is made of, and its structure: read off caches of several sizes."""
    name = type(decoder.model).__name__
    structure = None

    def shapes(batch: int, columns: int) -> list[tf.Tensor]:
        def build(token_ids: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
            nonlocal structure
            cache = decoder.build_cache(token_ids, mask)
            structure = tf.nest.map_structure(lambda _: 0, cache)
            return tf.nest.flatten(cache)

        specs = [tf.TensorSpec([batch, columns], t) for t in (tf.int32, tf.bool)]
        try:
            traced = tf.function(build, autograph=False).get_concrete_function(*specs)
        except Exception as error:
            raise ValueError(
                f"{name} must make its cache from tokens alone, and does not: {error}"
            ) from error
        return traced.structured_outputs

    leaves = []
    for first, longer, wider in zip(shapes(2, 7), shapes(2, 8), shapes(3, 7), strict=True):
        shape: list[int | None] = first.shape.as_list()
        time_axes = [i for i, size in enumerate(longer.shape) if size != shape[i]]
        batch_axes = [i for i, size in enumerate(wider.shape) if size != shape[i]]
        if batch_axes != [0] or any((shape[i], longer.shape[i]) != (7, 8) for i in time_axes):
            raise ValueError(
                f"the cache of {name} must have the batch first and a place for each token; of "
                f"2 x 7, 2 x 8 and 3 x 7 tokens it has the shapes {first.shape}, {longer.shape} "
                f"and {wider.shape}. Models that also take pictures or sound cannot be decoded."
            )
        for axis in (0, *time_axes):
            shape[axis] = None
        leaves.append(_Leaf(shape, first.dtype, time_axes[0] if time_axes else None))
    return leaves, structure


def _check_against_forward_pass(decoder: KerasHubDecoder) -> None:
    """Refuse a model whose cached call does not continue what its forward pass says.

    Raises:
        ValueError: the logits differ by more than rounding.
    """
    model = decoder.model
    tokens = tf.range(_CHECKED) * 7 % decoder.vocab_size
    tokens = tf.where(tokens == 0, 1, tokens)[tf.newaxis]
    inputs = {
        "token_ids": tokens,
        "padding_mask": tf.ones_like(tokens, tf.bool),
        "position_ids": tf.range(_CHECKED)[tf.newaxis],
    }
    names = list(model.input) if isinstance(model.input, dict) else ["token_ids"]
    if not set(names) <= set(inputs):
        return  # the forward pass needs pictures or sound

    def both() -> tuple[tf.Tensor, tf.Tensor]:
        given = {n: inputs[n] for n in names}
        full = model(given if isinstance(model.input, dict) else tokens, training=False)
        cache, begun = decoder._empty(tf.constant(1), tf.constant(_CHECKED)), 0
        if not decoder._recurrent:
            begun = _CHECKED // 2
            cache = decoder.build_cache(tokens[:, :begun], tf.ones([1, begun], tf.bool))
            cache = decoder._longer(tf.nest.flatten(cache), tf.constant(_CHECKED - begun))
        logits = []
        for column in range(begun, _CHECKED):
            one, cache = decoder.call_with_cache(tokens[:, column : column + 1], cache, column)
            logits.append(one[:, 0])
        return tf.cast(full, tf.float32)[0, begun:], tf.concat(logits, 0)

    full, cached = tf.function(both, autograph=False).get_concrete_function()()
    difference = float(tf.reduce_max(tf.abs(full - cached)))
    spread = float(tf.math.reduce_std(full))
    if not difference <= _ROUNDING[decoder.dtype] * spread:
        raise ValueError(
            f"the cached call of {type(model).__name__} must give the logits of its forward pass; "
            f"over {_CHECKED} tokens they differ by up to {difference:.2g}, and their standard "
            f"deviation is {spread:.2g}. This KerasHub cannot decode the model rightly, nor with "
            "its own generate"
        )
