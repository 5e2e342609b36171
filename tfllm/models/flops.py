"""The number of floating-point operations that a model needs per token."""

from __future__ import annotations

from typing import Literal

from tfllm.config import ModelConfig


def flops_per_token(
    config: ModelConfig,
    sequence_length: int,
    *,
    training: bool = True,
    trained: Literal["all", "lora", "top"] = "all",
    top_layers: int = 0,
) -> float:
    """Floating-point operations of the matrix products for one token of a full row.

    They are counted as in PaLM (Chowdhery et al., 2022, appendix B): 2 per weight and token, and
    attention over the whole row; three times that for training, forward and backward.
    Recomputation under rematerialization is not counted, since it is no progress. Frozen weights
    need no gradient, which saves a third, and below the lowest trained block there is no backward
    pass. An adapter's own products, a few percent, are left out.

    Args:
        config: the architecture.
        sequence_length: tokens in a row.
        training: include the backward pass. Defaults to True.
        trained: which weights are trained: all, those of an adapter of all blocks ("lora"), or the
            last blocks and an output matrix that is not tied ("top"). Defaults to "all".
        top_layers: number of trained blocks for "top". Defaults to 0.
    """
    assert config.num_kv_heads and config.head_dim and config.feed_forward_dim
    width, heads = config.embedding_dim, config.num_heads * config.head_dim
    query_key_value = width * (heads + 2 * config.num_kv_heads * config.head_dim)
    attention = query_key_value + heads * width
    feed_forward = (3 if config.gated else 2) * width * config.feed_forward_dim
    products, scores = 2 * (attention + feed_forward), 4 * sequence_length * heads
    output = 2 * config.vocab_size * width
    forward = config.num_layers * (products + scores) + output
    if not training:
        return float(forward)
    blocks = top_layers if trained == "top" else config.num_layers
    of_weights = 0 if trained == "lora" else blocks * products
    of_states = blocks * (products + 2 * scores) + output
    if trained == "lora":  # nothing below these projections is trained, not even a norm
        of_states -= 2 * query_key_value
    if trained == "all" or (trained == "top" and not config.tied_embeddings):
        of_weights += output
    return float(forward + of_states + of_weights)
