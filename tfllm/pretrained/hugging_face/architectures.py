"""The keys of config.json that correspond to a `ModelConfig`: one row for each `model_type`.

A key has the meaning that `transformers` gives it for that type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tfllm.config import ModelConfig
from tfllm.models.sizes.decoders import FAMILIES
from tfllm.pretrained.hugging_face.config_table import REQUIRED, ConfigTable

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "quantization_config": (),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    # Rotation of a part of each head, and more than one rotation.
    "partial_rotary_factor": (1.0,),
    "rotary_pct": (1.0,),
    "use_mrope": (False,),
    "mrope_section": (),
    # Attention: other masks, scores and scales.
    "attention_chunk_size": (),
    "dual_chunk_attention_config": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (1.0,),
    "clip_qkv": (),
    "alibi": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    # Scales of the residual stream and of the logits.
    "embedding_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (1.0,),
    "use_parallel_residual": (False,),
    "parallel_attn": (False,),
    # Mixtures of experts, and layers of their own settings.
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0,),
    "per_layer_config": (),
    "mlp_layer_types": (),
}
"""Keys of similar architectures that change what is computed, and the values (in addition to null)
that do not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(ConfigTable):
    """The keys of one `model_type` that correspond to a `ModelConfig`. In addition to
    `ConfigTable`:

    Args:
        biases: For each part of the block, whether it has biases, or the key that says so.
        rope_theta: Default base of the rotary frequencies; None for no rotary positions.
        rope_layers: Whether `no_rope_layers` says which blocks rotate.
        window: Blocks to which `sliding_window` applies if there are no `layer_types`: none (the
            type has no window), all, those from `max_window_layers` on, or those that do not
            rotate.
        default_window: Default of `sliding_window`.
        width_divides: Whether the number of heads must divide the width even if `head_dim` is
            given.
    """

    config_class: type = ModelConfig
    unsupported: Mapping[str, tuple[Any, ...]] = dataclasses.field(
        default_factory=lambda: UNSUPPORTED
    )
    biases: Mapping[str, bool | str]
    rope_theta: float | None = None
    rope_layers: bool = False
    window: Literal["none", "all", "from max_window_layers", "without rotation"] = "none"
    default_window: int | None = None
    width_divides: bool = False


def _like_llama(family: str, class_name: str, **differing: Any) -> Architecture:
    """A row with RMSNorm, rotary positions and a gated feed-forward; `keys` replace those of
    Llama."""
    keys = {
        "vocab_size": ("vocab_size", REQUIRED),
        "embedding_dim": ("hidden_size", REQUIRED),
        "num_layers": ("num_hidden_layers", REQUIRED),
        "num_heads": ("num_attention_heads", REQUIRED),
        "num_kv_heads": ("num_key_value_heads", None),
        "head_dim": ("head_dim", None),
        "feed_forward_dim": ("intermediate_size", REQUIRED),
        "max_sequence_length": ("max_position_embeddings", REQUIRED),
        "norm_epsilon": ("rms_norm_eps", 1e-6),
        "activation": ("hidden_act", "silu"),
        "tied_embeddings": ("tie_word_embeddings", False),
        "initializer_range": ("initializer_range", 0.02),
    }
    row: dict[str, Any] = {
        "required": _implied(family, "positions", "norm", "gated", "query_key_norm"),
        "biases": dict.fromkeys(("query_key_value", "attention_output"), "attention_bias")
        | {"feed_forward": "mlp_bias"},
        "dropouts": ("attention_dropout",),
        "default_dropout": 0.0,
        "written_activations": {"gelu_tanh": "gelu_pytorch_tanh"},
        "constants": {"use_cache": True},
        "rope_theta": 10_000.0,
    }
    names = {"model_type": family, "class_name": class_name}
    return Architecture(**{**names, **row, **differing, "keys": keys | differing["keys"]})


def _implied(family: str, *fields: str) -> dict[str, Any]:
    values = {"query_key_norm": False, **FAMILIES[family]}
    return {"norm_first": True, **{name: values[name] for name in fields}}


_NO_BIASES = {"query_key_value": False, "attention_output": False, "feed_forward": False}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _like_llama(
        "llama",
        "LlamaForCausalLM",
        keys={"max_sequence_length": ("max_position_embeddings", 2048)},
        fixed={"sliding_window": None},
        constants={"use_cache": True, "pretraining_tp": 1},
        width_divides=True,
    ),
    "mistral": _like_llama(
        "mistral",
        "MistralForCausalLM",
        keys={
            "num_kv_heads": ("num_key_value_heads", 8),
            "max_sequence_length": ("max_position_embeddings", 131_072),
        },
        biases=_NO_BIASES,
        fixed={"attention_bias": False, "mlp_bias": False},
        window="all",
        default_window=4096,
    ),
    "qwen2": _like_llama(
        "qwen2",
        "Qwen2ForCausalLM",
        keys={
            "num_kv_heads": ("num_key_value_heads", 32),
            "max_sequence_length": ("max_position_embeddings", 32_768),
        },
        biases=_NO_BIASES | {"query_key_value": True},
        fixed={"mlp_bias": False},
        window="from max_window_layers",
        default_window=4096,
    ),
    "qwen3": _like_llama(
        "qwen3",
        "Qwen3ForCausalLM",
        keys={
            "num_kv_heads": ("num_key_value_heads", 32),
            "head_dim": ("head_dim", 128),
            "max_sequence_length": ("max_position_embeddings", 32_768),
        },
        biases={
            "query_key_value": "attention_bias",
            "attention_output": "attention_bias",
            "feed_forward": False,
        },
        fixed={"mlp_bias": False},
        window="from max_window_layers",
        default_window=4096,
    ),
    "smollm3": _like_llama(
        "smollm3",
        "SmolLM3ForCausalLM",
        keys={
            "num_kv_heads": ("num_key_value_heads", 4),
            "max_sequence_length": ("max_position_embeddings", 32_768),
            "tied_embeddings": ("tie_word_embeddings", True),
        },
        rope_theta=2_000_000.0,
        rope_layers=True,
        window="without rotation",
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        class_name="GPT2LMHeadModel",
        keys={
            "vocab_size": ("vocab_size", REQUIRED),
            "embedding_dim": ("n_embd", REQUIRED),
            "num_layers": ("n_layer", REQUIRED),
            "num_heads": ("n_head", REQUIRED),
            "feed_forward_dim": ("n_inner", None),
            "max_sequence_length": ("n_positions", 1024),
            "norm_epsilon": ("layer_norm_epsilon", 1e-5),
            "activation": ("activation_function", "gelu_new"),
            "tied_embeddings": ("tie_word_embeddings", True),
            "initializer_range": ("initializer_range", 0.02),
        },
        required=_implied("gpt2", "positions", "norm", "gated", "query_key_norm"),
        biases=dict.fromkeys(_NO_BIASES, True),
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        default_dropout=0.1,
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        constants={"use_cache": True},
        width_divides=True,
    ),
}
"""The row of each model_type; a model is saved as the first type that can express it."""
