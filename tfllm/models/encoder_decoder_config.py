"""What an encoder-decoder is made of; imports no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tfllm.config.reading import read_fields
from tfllm.config.rules import require


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """An encoder-decoder Transformer; the defaults are those of Vaswani et al., 2017.

    Its blocks are those of the other models: what families differ in is values here.
    """

    vocab_size: int
    """number of token ids, of sources and targets alike: they share one embedding"""
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
    """inner width of the feed-forward; default 4 x embedding_dim"""
    max_sequence_length: int = 512
    """longest source and longest target, in tokens"""
    positions: Literal["sinusoidal", "relative"] = "sinusoidal"
    """how a token knows its place; relative: a learned bias of the attention, shared by the blocks
    of the encoder and by those of the decoder"""
    num_position_buckets: int = 32
    """buckets that relative distances fall into"""
    max_position_distance: int = 128
    """distance from which on all fall into the last bucket"""
    norm: Literal["rms", "layer"] = "layer"
    """the normalisation"""
    norm_epsilon: float = 1e-5
    """added to the variance before the square root"""
    norm_first: bool = False
    """normalise before each sublayer (pre-norm) instead of after its residual sum"""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "relu"
    """the feed-forward's non-linearity"""
    gated: bool = False
    """a gated feed-forward (GLU variants)"""
    use_bias: bool = True
    """biases in the projections"""
    scaled_attention: bool = True
    """divide attention's scores by the square root of head_dim"""
    scaled_embedding: bool = True
    """multiply the embeddings by the square root of embedding_dim"""
    scaled_output: bool = False
    """divide the decoder's states by the square root of embedding_dim before the logits"""
    tied_embeddings: bool = True
    """the output projection is the embedding"""
    output_bias: bool = False
    """a constant of each token that is added to its logit; it is not trained"""
    dropout: float = 0.1
    """share of the sublayers' results and of the embeddings dropped while training"""
    attention_dropout: float | None = None
    """share of the attention weights dropped while training; default dropout"""
    decoder_start_token_id: int = 0
    """the token that the decoder begins with, before a text's first"""
    never_generated: tuple[int, ...] = ()
    """tokens that are no part of a text that is generated, such as that of padding"""

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
        # Each block is made in Python: a damaged number must not run for ever.
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
