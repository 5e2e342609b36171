"""Generation with a `CausalLM` of KerasHub, using its own cached call, whatever its architecture.

KerasHub has one position for all rows: `call_with_cache(tokens, cache, column)` takes the tokens of
one column of the batch, and the column is their position. Rows with prompts of different lengths
are therefore at different columns. Here all prompts go through the model at once, and each step
then takes the first column at which a row needs a result: those rows get their next token, and rows
with longer prompts get the prompt's own token again, which changes nothing. Columns at which no row
is left are skipped. So a row gets the same result as alone, steps are shared wherever rows overlap,
and there are never more of them than in KerasHub's own loop, which feeds longer prompts token by
token.

A cache with a recurrent state (Qwen 3.5's linear attention) cannot take a token again: then all
rows begin after the shortest prompt, and every column is a step.

Shape letters: B batch, P longest prompt, C columns of the cache, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfllm.generation.decoding import (
    RUNNING,
    DecodingState,
    NextLogits,
    added_capacity,
    initial_capacity,
)
from tfllm.pretrained.keras_hub.models import in_one_dtype, with_dtype
from tfllm.pretrained.keras_hub.without_xla import without_xla

_NONE_LEFT = 2**31 - 1

_CHECKED = 6
"""Number of tokens over which a model's cached call is compared with its forward pass."""

_ROUNDING = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Allowed difference of logits, as a share of their standard deviation."""


class KerasHubCache(NamedTuple):
    """The cache of KerasHub's model for the tokens so far."""

    tensors: tuple[tf.Tensor, ...]
    """KerasHub's cache, flattened"""
    prompts: tf.Tensor
    """int32 [B, P]"""
    column: tf.Tensor
    """int32 scalar: number of columns that have been run"""


class KerasHubDecoder:
    """The `Decoder` of a KerasHub `CausalLM`.

    Args:
        model: The model. If its weights are stored in another dtype than that of computation, or
            LoRA's factors are separate, a copy with merged weights in one dtype is used, because
            otherwise they would be converted and merged for each token.
        context: Maximum number of tokens of a text.

    Raises:
        ValueError: If the model has no cached call that only takes tokens.
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
        self.cache_structure = KerasHubCache((0,) * len(self._leaves), 0, 0)
        _check_against_forward_pass(self)

    @property
    def weights(self) -> list[tf.Variable]:
        """The model's variables."""
        return [weight.value for weight in self.model.weights]

    def with_dtype(self, dtype: str) -> KerasHubDecoder:
        """The same model with weights and computation in another dtype."""
        return KerasHubDecoder(with_dtype(self.model, dtype), self.context)

    def begin(self, state: DecodingState, prompts: tf.RaggedTensor) -> NextLogits:
        """Run all prompts at once, then the first of their last tokens."""
        lengths = state.prompt_lengths
        columns = tf.maximum(tf.reduce_max(lengths), 1)  # reduce_max of no rows is negative
        token_ids = prompts.to_tensor(shape=[None, None])
        missing = columns - tf.shape(token_ids)[1]
        token_ids = tf.pad(token_ids, [[0, 0], [0, missing]])  # for no rows, again
        capacity = initial_capacity(state.limits)
        if self._recurrent:
            shortest = tf.reduce_min(tf.where(state.ends == RUNNING, lengths, columns))
            cache, taken = self._one_by_one(token_ids, columns + capacity, shortest - 1)
        else:
            mask = tf.range(columns) < lengths[:, tf.newaxis]
            cache = tf.nest.flatten(self.build_cache(token_ids, mask))
            cache, taken = self._extended(cache, capacity), columns
        return self.step(state._replace(cache=KerasHubCache(cache, token_ids, taken)))

    def _one_by_one(
        self, token_ids: tf.Tensor, columns: tf.Tensor, taken: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """A cache of so many columns with the first tokens, and their number.

        A recurrent state must not see the padding after a shorter prompt, and KerasHub's code for
        many tokens at once needs to know their number when it is traced.
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

    def fits_cache(self, state: DecodingState) -> tf.Tensor:
        """Whether the cache has the next column."""
        return self._next_column(state) < self._num_columns(state.cache.tensors)

    def extended_cache(self, state: DecodingState) -> KerasHubCache:
        """The cache, extended if it does not have the next column."""
        cache = state.cache
        capacity = self._num_columns(cache.tensors) - tf.shape(cache.prompts)[1]
        added = tf.where(self.fits_cache(state), 0, added_capacity(capacity, state.limits))
        return cache._replace(tensors=self._extended(cache.tensors, added))

    def repeated(self, cache: KerasHubCache, num: int) -> KerasHubCache:
        """The cache for `num` beams of each row."""
        return KerasHubCache(
            self._shaped([tf.repeat(leaf, num, axis=0) for leaf in cache.tensors]),
            tf.repeat(cache.prompts, num, axis=0),
            cache.column,
        )

    def reordered(self, cache: KerasHubCache, parents: tf.Tensor) -> KerasHubCache:
        """The cache in which each beam continues its parent."""
        tensors = self._shaped([tf.gather(leaf, parents) for leaf in cache.tensors])
        return cache._replace(tensors=tensors)

    def step(self, state: DecodingState) -> NextLogits:
        """Run the next column of all rows."""
        cache, prompts, _ = state.cache
        positions = _positions(state)
        column = tf.minimum(self._next_column(state), self._num_columns(cache) - 1)
        prompt_column = tf.minimum(column, tf.shape(prompts)[1] - 1)
        at_column = positions == column
        tokens = tf.where(at_column, state.token, prompts[:, prompt_column])
        logits, cache = self.call_with_cache(tokens[:, tf.newaxis], cache, column)
        return NextLogits(
            KerasHubCache(cache, prompts, column + 1),
            logits[:, 0],
            taken=at_column & (state.ends == RUNNING),
        )

    def token_losses(self, token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The negative log-probability of each label."""
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
        """The model's cache after int32 `[B, P]` tokens with a bool `[B, P]` mask."""
        arguments = dict.fromkeys(self._parameters) | {"token_ids": token_ids}
        if "padding_mask" in arguments:
            arguments["padding_mask"] = padding_mask
        with without_xla():
            return self.model._build_cache(**arguments)[1]

    def call_with_cache(
        self, token_ids: tf.Tensor, cache: tuple[tf.Tensor, ...], column: int | tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """The logits, float32 `[B, T, V]`, of int32 `[B, T]` tokens from a column on, and the
        cache."""
        nested = tf.nest.pack_sequence_as(self._structure, cache)
        column = tf.convert_to_tensor(column, tf.int32)  # Keras layers do not accept mixed types
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
        """Set the static shapes that a loop needs."""
        pairs = zip(cache, self._leaves, strict=True)
        return tuple(tf.ensure_shape(tensor, leaf.shape) for tensor, leaf in pairs)

    def _extended(self, cache: Sequence[tf.Tensor], added: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Append empty columns to the cache."""
        extended = []
        for tensor, leaf in zip(cache, self._leaves, strict=True):
            if leaf.time_axis is not None:
                around = [leaf.time_axis, len(leaf.shape) - 1 - leaf.time_axis]
                tensor = tf.pad(tensor, tf.pad(tf.reshape(added, [1, 1]), [around, [1, 0]]))
            extended.append(tensor)
        return self._shaped(extended)

    def _num_columns(self, cache: tuple[tf.Tensor, ...]) -> tf.Tensor:
        for tensor, leaf in zip(cache, self._leaves, strict=True):
            if leaf.time_axis is not None:
                return tf.shape(tensor)[leaf.time_axis]
        return tf.constant(_NONE_LEFT)  # only recurrent states

    def _next_column(self, state: DecodingState) -> tf.Tensor:
        if self._recurrent:
            return state.cache.column
        return tf.reduce_min(tf.where(state.ends == RUNNING, _positions(state), _NONE_LEFT))


class _Leaf(NamedTuple):
    """A tensor of the cache: its shape, with None for the batch and the columns."""

    shape: list[int | None]
    dtype: tf.DType
    time_axis: int | None


def _positions(state: DecodingState) -> tf.Tensor:
    """The position of each row's last token, int32 `[B]`."""
    return state.prompt_lengths - 1 + state.step


def _build_parameters(model: Any) -> list[str]:
    """The parameters of `_build_cache`; those that are not about tokens get None."""
    name = type(model).__name__
    for function in ("call_with_cache", "_build_cache"):
        if not callable(getattr(model, function, None)):
            raise ValueError(
                f"a KerasHub model must have {function} to be decoded with a cache; {name} does not"
            )
    parameters = inspect.signature(model.call_with_cache).parameters
    needed = {n for n, p in parameters.items() if p.default is p.empty}
    wanted = {"token_ids", "cache", "cache_update_index"}
    if needed != wanted:
        raise ValueError(
            f"call_with_cache must take {', '.join(sorted(wanted))} and require nothing else; "
            f"that of {name} requires {', '.join(sorted(needed))}"
        )
    return list(inspect.signature(model._build_cache).parameters)


def _cache_leaves(decoder: KerasHubDecoder) -> tuple[list[_Leaf], Any]:
    """The tensors of the cache and its structure, found from caches of several sizes."""
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
                f"{name} must make its cache from tokens only, but does not: {error}"
            ) from error
        return traced.structured_outputs

    leaves = []
    for first, longer, wider in zip(shapes(2, 7), shapes(2, 8), shapes(3, 7), strict=True):
        shape: list[int | None] = first.shape.as_list()
        time_axes = [i for i, size in enumerate(longer.shape) if size != shape[i]]
        batch_axes = [i for i, size in enumerate(wider.shape) if size != shape[i]]
        if batch_axes != [0] or any((shape[i], longer.shape[i]) != (7, 8) for i in time_axes):
            raise ValueError(
                f"the cache of {name} must have the batch first and an entry for each token; for "
                f"2 x 7, 2 x 8 and 3 x 7 tokens it has the shapes {first.shape}, {longer.shape} "
                f"and {wider.shape}. Models that also take images or sound cannot be decoded."
            )
        for axis in (0, *time_axes):
            shape[axis] = None
        leaves.append(_Leaf(shape, first.dtype, time_axes[0] if time_axes else None))
    return leaves, structure


def _check_against_forward_pass(decoder: KerasHubDecoder) -> None:
    """Check that the cached call of a model agrees with its forward pass.

    Raises:
        ValueError: If the logits differ by more than rounding.
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
        return  # the forward pass needs images or sound

    def both() -> tuple[tf.Tensor, tf.Tensor]:
        given = {n: inputs[n] for n in names}
        full = model(given if isinstance(model.input, dict) else tokens, training=False)
        cache, begun = decoder._empty(tf.constant(1), tf.constant(_CHECKED)), 0
        if not decoder._recurrent:
            begun = _CHECKED // 2
            cache = decoder.build_cache(tokens[:, :begun], tf.ones([1, begun], tf.bool))
            cache = decoder._extended(tf.nest.flatten(cache), tf.constant(_CHECKED - begun))
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
            f"deviation is {spread:.2g}. This KerasHub cannot decode the model correctly, not even "
            "with its own generate"
        )
