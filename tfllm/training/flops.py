"""How many floating-point operations a model needs for a token."""

from __future__ import annotations

from tfllm.config import ModelConfig


def flops_per_token(config: ModelConfig, sequence_length: int, *, training: bool = True) -> float:
    """Floating-point operations of the matrix products for one token of a full row.

    Counted as in PaLM (Chowdhery et al., 2022, appendix B): 2 a weight and token, and attention
    over the whole row; three times that for training, forward and backward. Recomputation under
    rematerialisation is not counted: it is no progress.

    Args:
        config: the model.
        sequence_length: tokens in a row.
        training: with the backward pass.
    """
    assert config.num_kv_heads and config.head_dim and config.feed_forward_dim
    width, heads = config.embedding_dim, config.num_heads * config.head_dim
    attention = width * (2 * heads + 2 * config.num_kv_heads * config.head_dim)
    feed_forward = (3 if config.gated else 2) * width * config.feed_forward_dim
    weights = config.num_layers * (attention + feed_forward) + config.vocab_size * width
    forward = 2 * weights + 4 * config.num_layers * sequence_length * heads
    return float(forward * (3 if training else 1))
