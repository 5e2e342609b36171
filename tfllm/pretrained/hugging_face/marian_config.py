"""`config.json` of a Marian folder to `EncoderDecoderConfig` and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.pretrained.hugging_face.architectures import ACTIVATIONS, REQUIRED
from tfllm.pretrained.hugging_face.config_values import built, read_key, unsupported

_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "embedding_dim": ("d_model", REQUIRED),
    "num_layers": ("encoder_layers", REQUIRED),
    "num_decoder_layers": ("decoder_layers", REQUIRED),
    "num_heads": ("encoder_attention_heads", REQUIRED),
    "feed_forward_dim": ("encoder_ffn_dim", REQUIRED),
    "max_sequence_length": ("max_position_embeddings", 1024),
    "activation": ("activation_function", "gelu"),
    "scaled_embedding": ("scale_embedding", False),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.0),
    "decoder_start_token_id": ("decoder_start_token_id", REQUIRED),
}
"""our field to (key in config.json, its default where the key is missing or null)"""

_FIXED: dict[str, Any] = {
    "is_encoder_decoder": True,
    "is_decoder": False,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "static_position_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
}
_ALIKE = (
    ("decoder_attention_heads", "encoder_attention_heads"),
    ("decoder_ffn_dim", "encoder_ffn_dim"),
    ("decoder_vocab_size", "vocab_size"),
)


def read_marian(
    values: Mapping[str, Any], where: str, dropout: float | None
) -> EncoderDecoderConfig:
    """The architecture that config.json describes. Arguments and errors as of `read_t5`."""
    if values.get("quantization_config") is not None:
        raise unsupported("quantization_config", values["quantization_config"], (None,), where)
    for key, value in _FIXED.items():
        if values.get(key) not in (None, value):
            raise unsupported(key, values[key], (value,), where)
    settings: dict[str, Any] = {}
    for name, (key, default) in _KEYS.items():
        value = default if values.get(key) is None else values[key]
        if value is REQUIRED:
            raise ConfigError(f"{where} has no {key!r}, which a marian needs")
        settings[name] = value
    for key, like in _ALIKE:
        if values.get(key) not in (None, values[like]):
            raise unsupported(key, values[key], (values[like],), where)
    activation = str(settings["activation"])
    if activation not in ACTIVATIONS:
        raise ConfigError(unknown_name("activation_function", activation, ACTIVATIONS, where))
    settings["activation"] = ACTIVATIONS[activation]
    settings["never_generated"] = _never_generated(values, where)
    if dropout is not None:
        settings["dropout"] = dropout
        if settings["attention_dropout"]:
            settings["attention_dropout"] = dropout
    return built(EncoderDecoderConfig, settings, where)


# Dropouts that there are none of here.
_OTHER_DROPOUTS = ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop")


def unlike_dropouts(values: Mapping[str, Any], known: float | None) -> dict[str, float]:
    """The dropouts of a Marian's config.json that our model has none of, where they are not 0."""
    del known
    if values.get("model_type") != "marian":
        return {}
    return {key: values[key] for key in _OTHER_DROPOUTS if values.get(key)}


def _never_generated(values: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """Words that are never generated: as they are listed, else padding, which no text of Marian
    has (`transformers` adds it to the vocabulary). A token that ends a text may always come."""
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


def written_marian(config: EncoderDecoderConfig) -> dict[str, Any]:
    """What config.json says of an architecture that `expresses_marian`."""
    values = {key: getattr(config, name) for name, (key, _) in _KEYS.items()}
    rate = config.dropout if config.attention_dropout is None else config.attention_dropout
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        **values,
        "attention_dropout": rate,
        "activation_dropout": 0.0,
        "activation_function": {"gelu_tanh": "gelu_new", "silu": "swish"}.get(
            config.activation, config.activation
        ),
        **{key: values[like] for key, like in _ALIKE},
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "pad_token_id": config.decoder_start_token_id,
        "eos_token_id": None,
        "forced_eos_token_id": None,
        "bad_words_ids": [[id_] for id_ in config.never_generated] or None,
        "use_cache": True,
    }


def expresses_marian(config: EncoderDecoderConfig) -> bool:
    """Whether a Marian's config.json can say this architecture."""
    return (
        config.positions == "sinusoidal"
        and (config.norm, config.norm_epsilon, config.norm_first) == ("layer", 1e-5, False)
        and config.use_bias
        and config.scaled_attention
        and config.tied_embeddings
        and not (config.gated or config.scaled_output)
        and config.num_heads * (config.head_dim or 0) == config.embedding_dim
    )
