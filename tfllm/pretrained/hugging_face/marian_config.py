"""Convert `config.json` of a Marian folder to `EncoderDecoderConfig` and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.pretrained.hugging_face.config_table import REQUIRED, ConfigTable
from tfllm.pretrained.hugging_face.config_values import read_key, unsupported
from tfllm.pretrained.hugging_face.encoder_decoder_weight_maps import FINAL_BIAS


def _never_generated(values: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The words that are never generated: those in the file, or else padding, which no Marian text
    contains (`transformers` adds it to the vocabulary). An end token is always allowed."""
    listed, ends = values.get("bad_words_ids"), values.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    if listed is None:
        pad = read_key(values, "pad_token_id", int, None, where)
        return () if pad is None or pad in ends else (pad,)
    one_each = isinstance(listed, list) and all(
        isinstance(word, list) and len(word) == 1 and type(word[0]) is int for word in listed
    )
    if not one_each:
        raise unsupported("bad_words_ids", listed, ("words of one token each",), where)
    return tuple(word[0] for word in listed if word[0] not in ends)


def _read_more(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"never_generated": _never_generated(values, where)}


def _written_more(config: EncoderDecoderConfig) -> dict[str, Any]:
    rate = config.dropout if config.attention_dropout is None else config.attention_dropout
    return {
        "attention_dropout": rate,
        "pad_token_id": config.decoder_start_token_id,
        "bad_words_ids": [[id_] for id_ in config.never_generated] or None,
    }


def _fills_width(config: EncoderDecoderConfig) -> bool:
    return config.num_heads * (config.head_dim or 0) == config.embedding_dim


def _stored_bias(config: EncoderDecoderConfig, names: Collection[str]) -> Mapping[str, Any]:
    return {"output_bias": FINAL_BIAS in names}


MARIAN = ConfigTable(
    model_type="marian",
    class_name="MarianMTModel",
    config_class=EncoderDecoderConfig,
    keys={
        "vocab_size": ("vocab_size", REQUIRED),
        "embedding_dim": ("d_model", REQUIRED),
        "num_layers": ("encoder_layers", REQUIRED),
        "num_decoder_layers": ("decoder_layers", REQUIRED),
        "num_heads": ("encoder_attention_heads", REQUIRED),
        "feed_forward_dim": ("encoder_ffn_dim", REQUIRED),
        "max_sequence_length": ("max_position_embeddings", 1024),
        "activation": ("activation_function", "gelu"),
        "scaled_embedding": ("scale_embedding", False),
        "attention_dropout": ("attention_dropout", 0.0),
        "decoder_start_token_id": ("decoder_start_token_id", REQUIRED),
    },
    required={
        "positions": "sinusoidal",
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "norm_first": False,
        "gated": False,
        "use_bias": True,
        "scaled_attention": True,
        "scaled_output": False,
        "tied_embeddings": True,
    },
    fixed={
        "is_encoder_decoder": True,
        "is_decoder": False,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "static_position_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
    },
    alike=(
        ("decoder_attention_heads", "encoder_attention_heads"),
        ("decoder_ffn_dim", "encoder_ffn_dim"),
        ("decoder_vocab_size", "vocab_size"),
    ),
    dropouts=("dropout",),
    default_dropout=0.1,
    absent_dropouts=("activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
    written_activations={"gelu_tanh": "gelu_new", "silu": "swish"},
    constants={
        "activation_dropout": 0.0,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "eos_token_id": None,
        "forced_eos_token_id": None,
        "use_cache": True,
    },
    read_more=_read_more,
    write_more=_written_more,
    expresses_more=_fills_width,
    stored_settings=_stored_bias,
)
