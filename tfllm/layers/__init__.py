"""Keras layers of a Transformer, each usable on its own in a functional model."""

from tfllm.layers.attention import MultiHeadAttention
from tfllm.layers.block_config import AttentionConfig, BlockConfig
from tfllm.layers.feed_forward import FeedForward
from tfllm.layers.masks import attention_bias
from tfllm.layers.normalization import LayerNorm, RMSNorm
from tfllm.layers.positions import LearnedPositions, SinusoidalPositions, rotary_tables, rotate
from tfllm.layers.projection import Projection
from tfllm.layers.relative_positions import RelativePositionBias
from tfllm.layers.scaled_dot_product import dot_product_attention
from tfllm.layers.transformer_block import TransformerBlock

__all__ = [
    "AttentionConfig",
    "BlockConfig",
    "FeedForward",
    "LayerNorm",
    "LearnedPositions",
    "MultiHeadAttention",
    "Projection",
    "RMSNorm",
    "RelativePositionBias",
    "SinusoidalPositions",
    "TransformerBlock",
    "attention_bias",
    "dot_product_attention",
    "rotary_tables",
    "rotate",
]
