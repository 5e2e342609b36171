"""What an encoder is made of; imports no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tfllm.config.reading import read_fields
from tfllm.config.rules import require


@dataclass(frozen=True)
class EncoderConfig:
    """A Transformer encoder as in BERT (Devlin et al., 2019): every token sees every other.

    Learned positions and token types, LayerNorm behind each residual sum (post-norm), biases
    everywhere.
    """

    vocab_size: int
    """number of token ids"""
    embedding_dim: int
    """width of the residual stream"""
    num_layers: int
    """number of Transformer blocks"""
    num_heads: int
    """number of attention heads; must divide embedding_dim"""
    feed_forward_dim: int | None = None
    """inner width of the feed-forward; default 4 x embedding_dim"""
    max_sequence_length: int = 512
    """longest sequence, in tokens: the model's context"""
    num_token_types: int = 2
    """kinds of tokens, such as those of a question and of its context"""
    norm_epsilon: float = 1e-12
    """added to the variance before the square root"""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "gelu"
    """the feed-forward's non-linearity"""
    dropout: float = 0.1
    """share of the activations dropped while training"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights"""

    def __post_init__(self) -> None:
        read_fields(self)
        if self.feed_forward_dim is None:
            object.__setattr__(self, "feed_forward_dim", 4 * self.embedding_dim)
        sizes = ("vocab_size", "embedding_dim", "num_layers", "num_heads", "feed_forward_dim")
        for name in (*sizes, "max_sequence_length", "num_token_types"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value)
        # Each block is made in Python: a damaged number must not run for ever.
        require(self.num_layers <= 10_000, "num_layers must be at most 10000", self.num_layers)
        require(
            self.embedding_dim % self.num_heads == 0,
            f"embedding_dim must be divisible by num_heads ({self.num_heads})",
            self.embedding_dim,
        )
        require(0 <= self.dropout < 1, "dropout must lie in [0, 1)", self.dropout)
        epsilon, deviation = self.norm_epsilon, self.initializer_range
        require(0 < epsilon < math.inf, "norm_epsilon must be positive and finite", epsilon)
        require(0 <= deviation < math.inf, "initializer_range must be finite, 0 or more", deviation)

    @property
    def head_dim(self) -> int:
        """The size of one head."""
        return self.embedding_dim // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        """The number of key/value heads."""
        return self.num_heads
