"""The architecture of an encoder-decoder; imports no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tfllm.config.reading import read_fields
from tfllm.config.rules import require


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """The architecture of an `EncoderDecoder`; the defaults are those of Vaswani et al., 2017.

    The blocks are those of the other models; families differ in these values only.

    Examples:
        >>> config = tfllm.EncoderDecoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.EncoderDecoder(config)
    """

    vocab_size: int
    """number of token ids; sources and targets share one embedding"""
    embedding_dim: int
    """width of the residual streams"""
    num_layers: int
    """number of the encoder's blocks"""
    num_heads: int
    """number of attention heads"""
    num_decoder_layers: int | None = None
    """number of the decoder's blocks; default num_layers"""
    head_dim: int | None = None
    """size of one head; default embedding_dim / num_heads"""
    feed_forward_dim: int | None = None
    """inner width of the feed-forward layer; default 4 x embedding_dim"""
    max_sequence_length: int = 512
    """maximum length of a source and of a target, in tokens"""
    positions: Literal["sinusoidal", "relative"] = "sinusoidal"
    """position encoding; relative: a learned attention bias, one shared by the encoder's blocks and
    one by the decoder's"""
    num_position_buckets: int = 32
    """number of buckets of relative distances"""
    max_position_distance: int = 128
    """distance from which on all distances share the last bucket"""
    norm: Literal["rms", "layer"] = "layer"
    """normalization layer: RMSNorm or LayerNorm"""
    norm_epsilon: float = 1e-5
    """added to the variance before the square root"""
    norm_first: bool = False
    """normalize before each sublayer (pre-norm) instead of after its residual sum"""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "relu"
    """activation function of the feed-forward layer"""
    gated: bool = False
    """use a gated feed-forward layer (GLU variants)"""
    use_bias: bool = True
    """add biases to the projections"""
    scaled_attention: bool = True
    """divide attention's scores by the square root of head_dim"""
    scaled_embedding: bool = True
    """multiply the embeddings by the square root of embedding_dim"""
    scaled_output: bool = False
    """divide the decoder's states by the square root of embedding_dim before the logits"""
    tied_embeddings: bool = True
    """use the embedding as the output projection"""
    output_bias: bool = False
    """add a bias to the logits; it is not trained"""
    dropout: float = 0.1
    """rate of dropout of the sublayers' results and of the embeddings during training"""
    attention_dropout: float | None = None
    """rate of dropout of the attention weights during training; default dropout"""
    decoder_start_token_id: int = 0
    """token that the decoder starts with, before the first token of a text"""
    never_generated: tuple[int, ...] = ()
    """tokens that are never generated, such as padding"""

    def __post_init__(self) -> None:
        read_fields(self)
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        if self.feed_forward_dim is None:
            object.__setattr__(self, "feed_forward_dim", 4 * self.embedding_dim)
        if self.head_dim is None:
            require(
                self.num_heads >= 1 and self.embedding_dim % self.num_heads == 0,
                "without head_dim, embedding_dim must be divisible by num_heads "
                f"({self.num_heads})",
                self.embedding_dim,
            )
            object.__setattr__(self, "head_dim", self.embedding_dim // self.num_heads)
        sizes = ("vocab_size", "embedding_dim", "num_layers", "num_heads", "num_decoder_layers")
        for name in (*sizes, "head_dim", "feed_forward_dim", "max_sequence_length"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1", value)
        # Each block is created in Python, so a corrupt number must not take forever.
        for name in ("num_layers", "num_decoder_layers"):
            value = getattr(self, name)
            require(value <= 10_000, f"{name} must be at most 10000", value)
        if self.positions == "sinusoidal":
            require(
                self.embedding_dim % 2 == 0,
                "embedding_dim must be even for sinusoidal positions",
                self.embedding_dim,
            )
        else:
            buckets, distance = self.num_position_buckets, self.max_position_distance
            require(
                4 <= buckets <= 1_000_000 and buckets % 4 == 0,
                "num_position_buckets must be a multiple of 4",
                buckets,
            )
            require(
                buckets // 2 < distance <= 1_000_000,
                "max_position_distance must be more than half of num_position_buckets "
                f"({buckets}), at most 1000000",
                distance,
            )
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None:
                require(0 <= value < 1, f"{name} must lie in [0, 1)", value)
        epsilon = self.norm_epsilon
        require(0 < epsilon < math.inf, "norm_epsilon must be positive and finite", epsilon)
        for name, ids in (
            ("decoder_start_token_id", (self.decoder_start_token_id,)),
            ("never_generated", self.never_generated),
        ):
            for id_ in ids:
                require(
                    0 <= id_ < self.vocab_size, f"{name} must lie in [0, {self.vocab_size})", id_
                )

    @property
    def num_kv_heads(self) -> int:
        """The number of key/value heads."""
        return self.num_heads
