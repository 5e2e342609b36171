"""Blocks as functions of a graph: traced once, and called with the weights of each block alike.

A model's blocks differ in nothing but their weights. So a graph for inference has the operations of
one block, as functions, and calls them for each block: it is traced in a fraction of the time, a
SavedModel is a fraction of the size, and a server, which optimizes and instantiates the graph of
each signature, needs less time and memory.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.layers.key_value_cache import is_empty, write_cache
from tfllm.layers.masks import AttentionMask
from tfllm.layers.projection import Projection
from tfllm.layers.quantized import multiplies_integers
from tfllm.layers.transformer_block import TransformerBlock

_LARGE = 500_000
"""Number of a block's parameters from which its functions stay apart when a graph is optimized,
instead of being inlined. A call costs 10 us, which is little compared with so many parameters."""


class _Functions(NamedTuple):
    """The functions of blocks that differ in nothing but the values of their weights."""

    whole: Any
    """weights, x, arguments -> what the block returns"""
    heads: Any
    """weights, x, rotary -> what `TransformerBlock.heads` returns"""
    after_heads: Any
    """weights, x, query, key, value, bias, arguments -> what `after_heads` returns"""
    executor: str | None
    """how the runtime executes them"""


_FUNCTIONS: weakref.WeakKeyDictionary[TransformerBlock, _Functions] = weakref.WeakKeyDictionary()


def can_share(blocks: Sequence[TransformerBlock], arguments: Sequence[Mapping[str, Any]]) -> bool:
    """Whether blocks may be called as functions: in a graph, for inference, without adapters.

    Args:
        blocks: the blocks.
        arguments: the call arguments of each block, by name.
    """
    return (
        tf.inside_function()
        and not any(given.get("training") or given.get("return_weights") for given in arguments)
        # A mask for chunks is no tensor that a function could be given.
        and not any(isinstance(given.get("bias"), AttentionMask) for given in arguments)
        and not any(
            isinstance(layer, Projection) and layer.adapters
            for block in blocks
            for layer in block._flatten_layers()
        )
    )


class BlockFunctions:
    """The blocks of a model as functions.

    Args:
        blocks: built blocks; those that differ in nothing but the values of their weights share
            their functions.
    """

    def __init__(self, blocks: Sequence[TransformerBlock]) -> None:
        first: dict[str, TransformerBlock] = {}
        self._representatives = [first.setdefault(_kind(block), block) for block in blocks]
        self._blocks = blocks

    def __call__(self, index: int, x: tf.Tensor, arguments: Mapping[str, Any]) -> Any:
        """Call a block; the result is that of the block.

        Args:
            index: index of the block.
            x: as in `TransformerBlock.call`.
            arguments: the other call arguments, by name.
        """
        functions = _functions(self._representatives[index])
        weights = [tf.convert_to_tensor(v) for v in self._blocks[index].weights]
        arguments = {k: v for k, v in arguments.items() if k not in ("training", "return_weights")}
        with tf.experimental.function_executor_type(functions.executor):
            if arguments.get("cache") is None:
                return functions.whole(weights, x, arguments)
            return _with_cache(functions, weights, x, **arguments)


def _with_cache(
    functions: _Functions,
    weights: list[tf.Tensor],
    x: tf.Tensor,
    *,
    cache: tf.Tensor,
    cache_index: int | tf.Tensor,
    bias: tf.Tensor | None,
    rotary: tuple[tf.Tensor, tf.Tensor] | None = None,
    context: tf.Tensor | None = None,
    **arguments: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The block's states and its new cache.

    The cache is written between two functions: one that is not inlined would copy it.
    """
    assert context is None, "a decoder with a cache has the context's keys and values"
    query, key, value = functions.heads(weights, x, rotary)
    cache = write_cache(cache, cache_index, key, value)
    if not is_empty(cache_index):
        key, value = tf.unstack(cache, num=2)
    return functions.after_heads(weights, x, query, key, value, bias, arguments), cache


def _kind(block: TransformerBlock) -> str:
    """What two blocks have in common that differ in nothing but the values of their weights."""
    config = block.get_config()
    for name in ("name", "seed", "kernel_initializer", "output_initializer"):
        config.pop(name)
    weights = [(v.path.rpartition(block.name)[2], v.shape, v.dtype) for v in block.weights]
    return json.dumps([config, weights], default=str)


def _functions(block: TransformerBlock) -> _Functions:
    """The functions of a block, whose first arguments are the weights."""
    if block not in _FUNCTIONS:
        # A weak reference, since the table forgets a block only when nothing else refers to it.
        of_block = weakref.ref(block)
        is_large = block.count_params() >= _LARGE
        graph_function = tf.function(
            autograph=False,
            experimental_attributes={"_noinline": True} if is_large else None,
        )

        def with_weights(weights: list[tf.Tensor]) -> tuple[TransformerBlock, Any]:
            block = of_block()
            assert block is not None
            values = list(zip(block.weights, weights, strict=True))
            return block, keras.StatelessScope(state_mapping=values)

        @graph_function
        def whole(weights: list[tf.Tensor], x: tf.Tensor, arguments: dict[str, Any]) -> Any:
            block, scope = with_weights(weights)
            with scope:
                return block(x, **arguments)

        @graph_function
        def heads(weights: list[tf.Tensor], x: tf.Tensor, rotary: Any) -> list[tf.Tensor]:
            block, scope = with_weights(weights)
            with scope:
                return block.heads(x, rotary)

        @graph_function
        def after_heads(
            weights: list[tf.Tensor],
            x: tf.Tensor,
            query: tf.Tensor,
            key: tf.Tensor,
            value: tf.Tensor,
            bias: tf.Tensor | None,
            arguments: dict[str, Any],
        ) -> tf.Tensor:
            block, scope = with_weights(weights)
            with scope:
                return block.after_heads(x, query, key, value, bias, **arguments)

        # A block's operations follow one another: an executor that runs them in order, without
        # counting which ones are ready, takes a seventh off a decoding step. It is for CPUs, and a
        # model may be served on other devices unless it multiplies integers.
        in_order = is_large and multiplies_integers(block.dtype_policy)
        executor = "SINGLE_THREADED_EXECUTOR" if in_order else None
        _FUNCTIONS[block] = _Functions(whole, heads, after_heads, executor)
    return _FUNCTIONS[block]
