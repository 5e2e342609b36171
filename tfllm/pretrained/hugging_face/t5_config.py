"""`config.json` of a T5 folder to `EncoderDecoderConfig` and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.encoder_decoder_presets import FAMILIES
from tfllm.pretrained.hugging_face.architectures import ACTIVATIONS, REQUIRED
from tfllm.pretrained.hugging_face.config_values import built, read_key, unsupported

_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "embedding_dim": ("d_model", REQUIRED),
    "num_layers": ("num_layers", REQUIRED),
    "num_decoder_layers": ("num_decoder_layers", None),
    "num_heads": ("num_heads", REQUIRED),
    "head_dim": ("d_kv", 64),
    "feed_forward_dim": ("d_ff", 2048),
    "max_sequence_length": ("n_positions", 512),
    "num_position_buckets": ("relative_attention_num_buckets", 32),
    "max_position_distance": ("relative_attention_max_distance", 128),
    "norm_epsilon": ("layer_norm_epsilon", 1e-6),
    "dropout": ("dropout_rate", 0.1),
    "decoder_start_token_id": ("decoder_start_token_id", 0),
}
"""our field to (key in config.json, its default where the key is missing or null)"""

_IMPLIED = (
    *("positions", "norm", "norm_first", "use_bias", "scaled_attention", "scaled_embedding"),
)
_FIXED: dict[str, Any] = {"is_encoder_decoder": True, "is_decoder": False}
OUTPUT = "lm_head.weight"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""the names of the token embedding"""


def read_t5(values: Mapping[str, Any], where: str, dropout: float | None) -> EncoderDecoderConfig:
    """The architecture that config.json describes.

    Args:
        values: what the file holds.
        where: the file's name, for errors.
        dropout: what to train with instead of what the file says.

    Raises:
        ConfigError: an option that is not supported, a missing key, or values that do not fit
            together.
    """
    if values.get("quantization_config") is not None:
        raise unsupported("quantization_config", values["quantization_config"], (None,), where)
    for key, value in _FIXED.items():
        if values.get(key) not in (None, value):
            raise unsupported(key, values[key], (value,), where)
    settings: dict[str, Any] = {name: FAMILIES["t5"][name] for name in _IMPLIED}
    for name, (key, default) in _KEYS.items():
        value = default if values.get(key) is None else values[key]
        if value is REQUIRED:
            raise ConfigError(f"{where} has no {key!r}, which a t5 needs")
        settings[name] = value
    kind = values.get("feed_forward_proj") or "relu"
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: feed_forward_proj must be text; received {kind!r}")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise ConfigError(unknown_name("feed_forward_proj", activation, ACTIVATIONS, where))
    settings["gated"] = gated
    # "gated-gelu" has always been the tanh form.
    is_tanh = gated and activation == "gelu"
    settings["activation"] = "gelu_tanh" if is_tanh else ACTIVATIONS[activation]
    tied = read_key(values, "tie_word_embeddings", bool, True, where)
    # Versions differ in the key that says it; the second version of T5 has neither.
    settings["scaled_output"] = read_key(values, "scale_decoder_outputs", bool, tied, where)
    settings["tied_embeddings"] = tied
    if dropout is not None:
        settings["dropout"] = dropout
    return built(EncoderDecoderConfig, settings, where)


def with_stored_output(config: EncoderDecoderConfig, names: Collection[str]) -> Mapping[str, Any]:
    """What the names of the stored weights say of the output projection.

    transformers 5 writes that it is tied in any case. The first version of T5 is the one whose
    states are scaled before it; its old files hold a copy of the embedding. A file may also hold
    the output projection as the only name of a weight that is tied.
    """
    is_alone = not any(name in names for name in EMBEDDINGS)
    return {"tied_embeddings": config.scaled_output or OUTPUT not in names or is_alone}


def written_t5(config: EncoderDecoderConfig) -> dict[str, Any]:
    """What config.json says of an architecture that `expresses_t5`."""
    values = {key: getattr(config, name) for name, (key, _) in _KEYS.items()}
    activation = {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation)
    if config.gated:
        activation = f"gated-{'gelu' if activation == 'gelu_new' else activation}"
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        **values,
        "feed_forward_proj": activation,
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.tied_embeddings and config.scaled_output,
        "scale_decoder_outputs": config.scaled_output,
        "pad_token_id": config.decoder_start_token_id,
        "use_cache": True,
    }


def expresses_t5(config: EncoderDecoderConfig) -> bool:
    """Whether a T5's config.json can say this architecture."""
    t5 = FAMILIES["t5"]
    return (
        all(getattr(config, name) == t5[name] for name in _IMPLIED)
        and not config.output_bias
        and not config.never_generated
        and config.attention_dropout in (None, config.dropout)
        and (config.tied_embeddings or not config.scaled_output)
        and not (config.gated and config.activation == "gelu")
    )
