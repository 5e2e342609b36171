"""The families and sizes of encoder-decoders, as rows of `EncoderDecoderConfig` values.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.sizes.size_table import SizeTable

# Raffel et al., 2020: pre-norm, RMSNorm, relative positions, no biases, unscaled attention.
_T5: dict[str, Any] = {
    "positions": "relative",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "norm_first": True,
    "activation": "relu",
    "gated": False,
    "use_bias": False,
    "scaled_attention": False,
    "scaled_embedding": False,
    "scaled_output": True,
    "tied_embeddings": True,
    "dropout": 0.1,
}

FAMILIES: dict[str, dict[str, Any]] = {
    # Vaswani et al., 2017: post-norm, LayerNorm, sinusoidal positions, one embedding for all.
    "transformer": {"attention_dropout": 0.0},
    "t5": _T5,
    # Its second version: a gated feed-forward (Shazeer, 2020) and an output projection of its own.
    "t5-v1.1": {
        **_T5,
        "activation": "gelu_tanh",
        "gated": True,
        "scaled_output": False,
        "tied_embeddings": False,
    },
}
"""what all sizes of a family have in common"""

_COLUMNS = (
    "vocab_size",
    "num_layers",
    "embedding_dim",
    "num_heads",
    "head_dim",
    "feed_forward_dim",
    "max_sequence_length",
)

ROWS: dict[str, dict[str, tuple[Any, ...]]] = {
    "transformer": {
        #                  vocab layers width heads size inner  context
        "transformer-tiny": (4_096, 2, 128, 4, 32, 512, 256),
        "transformer-mini": (8_192, 3, 256, 4, 64, 1_024, 256),
        "transformer-small": (8_192, 4, 384, 6, 64, 1_536, 512),
        # As published (table 3).
        "transformer-base": (37_000, 6, 512, 8, 64, 2_048, 512),
        "transformer-big": (37_000, 6, 1_024, 16, 64, 4_096, 512, {"dropout": 0.3}),
    },
    # As published: the numbers of parameters are exact.
    "t5": {
        "t5-small": (32_128, 6, 512, 8, 64, 2_048, 512),
        "t5-base": (32_128, 12, 768, 12, 64, 3_072, 512),
        "t5-large": (32_128, 24, 1_024, 16, 64, 4_096, 512),
        "t5-3b": (32_128, 24, 1_024, 32, 128, 16_384, 512),
        "t5-11b": (32_128, 24, 1_024, 128, 128, 65_536, 512),
    },
    "t5-v1.1": {
        "t5-v1.1-small": (32_128, 8, 512, 6, 64, 1_024, 512),
        "t5-v1.1-base": (32_128, 12, 768, 12, 64, 2_048, 512),
        "t5-v1.1-large": (32_128, 24, 1_024, 16, 64, 2_816, 512),
        "t5-v1.1-xl": (32_128, 24, 2_048, 32, 64, 5_120, 512),
        "t5-v1.1-xxl": (32_128, 24, 4_096, 64, 64, 10_240, 512),
    },
}
"""family to a size's name to its row: the columns above, then a dictionary of what differs"""

ENCODER_DECODER_SIZES = SizeTable(
    "encoder-decoder", EncoderDecoderConfig, families=FAMILIES, columns=_COLUMNS, rows=ROWS
)
"""size's name to its `EncoderDecoderConfig` values"""
