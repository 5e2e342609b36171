"""The blocks of a model: creating them from their configurations, and running them in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfllm.layers.block_config import BlockConfig
from tfllm.layers.dropout import named_seed
from tfllm.layers.normalization import norm_layer
from tfllm.layers.projection import forked
from tfllm.layers.transformer_block import TransformerBlock
from tfllm.models.block_functions import BlockFunctions, can_share


def transformer_blocks(
    configs: Iterable[BlockConfig],
    *,
    kernel_initializer: Any,
    output_initializer: Any = None,
    seed: int | None,
    prefix: str = "",
    **options: Any,
) -> list[TransformerBlock]:
    """Create blocks named block_0, block_1, ..., each with its own initial weights and dropout.

    Args:
        configs: the configuration of each block.
        kernel_initializer: initializer of the projections.
        output_initializer: initializer of the projections into the residual stream. Defaults to
            kernel_initializer.
        seed: seed of dropout.
        prefix: distinguishes the blocks of several stacks of one model, for seeds. Defaults to "".
        options: other arguments of `TransformerBlock`, the same for all blocks.
    """
    blocks = []
    for i, config in enumerate(configs):
        name = f"block_{i}"
        of_output = output_initializer
        blocks.append(
            TransformerBlock(
                config,
                kernel_initializer=forked(kernel_initializer, prefix + name),
                output_initializer=None if of_output is None else forked(of_output, prefix + name),
                seed=named_seed(seed, prefix + name),
                name=name,
                **options,
            )
        )
    return blocks


def final_norm(config: Any, dtype: Any) -> Any:
    """The normalization after the last block of a pre-norm model; None for a post-norm model.

    Args:
        config: configuration with the fields `norm`, `norm_epsilon` and `norm_first`.
        dtype: dtype policy.
    """
    if not config.norm_first:
        return None
    return norm_layer(config.norm, config.norm_epsilon, name="final_norm", dtype=dtype)


def run_blocks(
    x: tf.Tensor,
    blocks: Sequence[TransformerBlock],
    norm: Any,
    of_each: Mapping[str, Sequence[Any] | None],
    **of_all: Any,
) -> tuple[tf.Tensor, list[Any]]:
    """Run the blocks in order.

    Args:
        x: float32 `[B, T, E]` (or `[B, E]`, one token per row).
        blocks: the blocks in order.
        norm: normalization after the last block, or None.
        of_each: maps call arguments of a block to their values for each block, or to None.
        of_all: call arguments that are the same for all blocks.

    Returns:
        the states after the last block, of x's shape in the blocks' compute dtype, and what each
        block returned besides its states: its new cache or its attention weights.
    """
    extra = []
    each = {name: values for name, values in of_each.items() if values is not None}
    arguments = [
        {**{name: values[i] for name, values in each.items()}, **of_all} for i in range(len(blocks))
    ]
    functions = BlockFunctions(blocks) if can_share(blocks, arguments) else None
    for i, block in enumerate(blocks):
        x = functions(i, x, arguments[i]) if functions else block(x, **arguments[i])
        if isinstance(x, tuple):
            x, other = x
            extra.append(other)
    return tf.cast(x, blocks[0].compute_dtype) if norm is None else norm(x), extra
