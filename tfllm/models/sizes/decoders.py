"""The families and sizes of causal language models, as rows of `ModelConfig` values.

To add a size, add a row. To add a family, add what its sizes have in common to `FAMILIES`, its
sizes to `ROWS`, and its weight map to `tfllm/pretrained/hugging_face/weight_map.py`. Nothing here
imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

from tfllm.config import ModelConfig
from tfllm.models.sizes.size_table import SizeTable

# Touvron et al., 2023: RMSNorm, rotary positions, SwiGLU, no biases.
_LLAMA: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "norm_epsilon": 1e-5,
    "activation": "silu",
    "gated": True,
    "use_bias": False,
    "tied_embeddings": True,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    # Jiang et al., 2023: a Llama; the first version has a sliding window.
    "mistral": {**_LLAMA, "tied_embeddings": False},
    # Hugging Face, 2025: every fourth block does not rotate (Yang et al., RNoPE, 2025).
    "smollm3": {**_LLAMA, "norm_epsilon": 1e-6},
    # Yang et al., 2024: biases of queries, keys and values.
    "qwen2": {**_LLAMA, "norm_epsilon": 1e-6, "query_key_value_bias": True},
    # Yang et al., 2025: queries and keys are normalised instead.
    "qwen3": {**_LLAMA, "norm_epsilon": 1e-6, "query_key_norm": True},
    # Radford et al., 2019: LayerNorm, learned positions, GELU by its tanh formula, biases.
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "gated": False,
        "use_bias": True,
        "tied_embeddings": True,
    },
}
"""what all sizes of a family have in common"""

_COLUMNS = (
    "vocab_size",
    "num_layers",
    "embedding_dim",
    "num_heads",
    "num_kv_heads",
    "feed_forward_dim",
    "max_sequence_length",
)


def _llama3_scaling(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_QWEN3 = {"head_dim": 128, "rope_theta": 1_000_000.0}

ROWS: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {
        #                  vocab layers width heads kv  inner  context  what differs
        "llama-1m": (4_096, 3, 128, 4, 2, 352, 1_024),
        "llama-4m": (4_096, 4, 256, 4, 2, 704, 1_024),
        "llama-15m": (8_192, 8, 384, 6, 2, 960, 1_024),
        "llama-60m": (16_384, 14, 576, 9, 3, 1_536, 2_048),
        "llama-125m": (32_768, 16, 768, 12, 4, 2_048, 2_048),
        "llama-350m": (32_768, 24, 1_024, 16, 8, 3_328, 2_048),
        # TinyLlama's shape (Zhang et al., 2024).
        "llama-1b": (32_000, 22, 2_048, 32, 4, 5_632, 2_048, {"tied_embeddings": False}),
        # As published: the numbers of parameters are exact.
        "smollm2-135m": (49_152, 30, 576, 9, 3, 1_536, 8_192, {"rope_theta": 100_000.0}),
        "smollm2-360m": (49_152, 32, 960, 15, 5, 2_560, 8_192, {"rope_theta": 100_000.0}),
        "smollm2-1.7b": (49_152, 24, 2_048, 32, 32, 8_192, 8_192, {"rope_theta": 130_000.0}),
        "llama-2-7b": (32_000, 32, 4_096, 32, 32, 11_008, 4_096, {"tied_embeddings": False}),
        "llama-2-13b": (32_000, 40, 5_120, 40, 40, 13_824, 4_096, {"tied_embeddings": False}),
        "llama-3.2-1b": (
            *(128_256, 16, 2_048, 32, 8, 8_192, 131_072),
            {"rope_theta": 500_000.0, "rope_scaling": _llama3_scaling(32)},
        ),
        "llama-3.2-3b": (
            *(128_256, 28, 3_072, 24, 8, 8_192, 131_072),
            {"rope_theta": 500_000.0, "rope_scaling": _llama3_scaling(32)},
        ),
        "llama-3.1-8b": (
            *(128_256, 32, 4_096, 32, 8, 14_336, 131_072),
            {
                "tied_embeddings": False,
                "rope_theta": 500_000.0,
                "rope_scaling": _llama3_scaling(8),
            },
        ),
        "llama-3-8b": (
            *(128_256, 32, 4_096, 32, 8, 14_336, 8_192),
            {"tied_embeddings": False, "rope_theta": 500_000.0},
        ),
        "llama-3-70b": (
            *(128_256, 80, 8_192, 64, 8, 28_672, 8_192),
            {"tied_embeddings": False, "rope_theta": 500_000.0},
        ),
    },
    "gpt2": {
        "gpt2-1m": (4_096, 3, 128, 4, 4, 512, 512),
        "gpt2-4m": (4_096, 4, 256, 4, 4, 1_024, 512),
        "gpt2-15m": (8_192, 6, 384, 6, 6, 1_536, 1_024),
        "gpt2-60m": (16_384, 10, 640, 10, 10, 2_560, 1_024),
        # As published: the numbers of parameters are exact.
        "gpt2": (50_257, 12, 768, 12, 12, 3_072, 1_024),
        "gpt2-medium": (50_257, 24, 1_024, 16, 16, 4_096, 1_024),
        "gpt2-large": (50_257, 36, 1_280, 20, 20, 5_120, 1_024),
        "gpt2-xl": (50_257, 48, 1_600, 25, 25, 6_400, 1_024),
    },
    # As published: the numbers of parameters are exact.
    "mistral": {
        "mistral-7b": (32_000, 32, 4_096, 32, 8, 14_336, 32_768, {"sliding_window": 4_096}),
        "mistral-nemo-12b": (
            *(131_072, 40, 5_120, 32, 8, 14_336, 131_072),
            {"head_dim": 128, "rope_theta": 1_000_000.0},
        ),
    },
    "smollm3": {
        "smollm3-3b": (
            *(128_256, 36, 2_048, 16, 4, 11_008, 65_536),
            {"rope_theta": 5_000_000.0, "rope_layers": [i for i in range(36) if i % 4 != 3]},
        ),
    },
    "qwen2": {
        "qwen2-0.5b": (151_936, 24, 896, 14, 2, 4_864, 131_072, {"rope_theta": 1_000_000.0}),
        "qwen2-1.5b": (151_936, 28, 1_536, 12, 2, 8_960, 131_072, {"rope_theta": 1_000_000.0}),
        "qwen2-7b": (
            *(152_064, 28, 3_584, 28, 4, 18_944, 131_072),
            {"tied_embeddings": False, "rope_theta": 1_000_000.0},
        ),
    },
    "qwen3": {
        "qwen3-0.6b": (151_936, 28, 1_024, 16, 8, 3_072, 40_960, _QWEN3),
        "qwen3-1.7b": (151_936, 28, 2_048, 16, 8, 6_144, 40_960, _QWEN3),
        "qwen3-4b": (151_936, 36, 2_560, 32, 8, 9_728, 40_960, _QWEN3),
        "qwen3-8b": (
            *(151_936, 36, 4_096, 32, 8, 12_288, 40_960),
            {**_QWEN3, "tied_embeddings": False},
        ),
    },
}
"""family to a size's name to its row: the columns above, then a dictionary of what differs"""

DECODER_SIZES = SizeTable("decoder", ModelConfig, families=FAMILIES, columns=_COLUMNS, rows=ROWS)
"""size's name to its `ModelConfig` values"""
