"""Convert `config.json` of a T5 folder to `EncoderDecoderConfig` and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.sizes.encoder_decoders import FAMILIES
from tfllm.pretrained.hugging_face.config_table import ACTIVATIONS, REQUIRED, ConfigTable
from tfllm.pretrained.hugging_face.config_values import read_key

OUTPUT = "lm_head.weight"
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""The names of the token embedding."""
_IMPLIED = (
    *("positions", "norm", "norm_first", "use_bias", "scaled_attention", "scaled_embedding"),
)


def _feed_forward_and_output(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that depend on the version of T5 and of `transformers`."""
    kind = values.get("feed_forward_proj") or "relu"
    if not isinstance(kind, str):
        raise ConfigError(f"{where}: feed_forward_proj must be text; received {kind!r}")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise ConfigError(unknown_name("feed_forward_proj", activation, ACTIVATIONS, where))
    # "gated-gelu" has always been the tanh form.
    is_tanh = gated and activation == "gelu"
    tied = read_key(values, "tie_word_embeddings", bool, True, where)
    return {
        "gated": gated,
        "activation": "gelu_tanh" if is_tanh else ACTIVATIONS[activation],
        # The key depends on the version; the second version of T5 has neither.
        "scaled_output": read_key(values, "scale_decoder_outputs", bool, tied, where),
        "tied_embeddings": tied,
    }


def _written_more(config: EncoderDecoderConfig) -> dict[str, Any]:
    activation = {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation)
    if config.gated:
        activation = f"gated-{'gelu' if activation == 'gelu_new' else activation}"
    return {
        "feed_forward_proj": activation,
        "tie_word_embeddings": config.tied_embeddings and config.scaled_output,
        "scale_decoder_outputs": config.scaled_output,
        "pad_token_id": config.decoder_start_token_id,
    }


def _expresses(config: EncoderDecoderConfig) -> bool:
    return (
        not config.output_bias
        and not config.never_generated
        and config.attention_dropout in (None, config.dropout)
        and (config.tied_embeddings or not config.scaled_output)
        and not (config.gated and config.activation == "gelu")
    )


def _stored_output(config: EncoderDecoderConfig, names: Collection[str]) -> Mapping[str, Any]:
    """The fields of the output projection that the names of the stored weights determine.

    transformers 5 always writes that it is tied. Only the first version of T5 scales the states
    before it; its old files contain a copy of the embedding. A file may also hold tied weights only
    under the name of the output projection.
    """
    is_alone = not any(name in names for name in EMBEDDINGS)
    return {"tied_embeddings": config.scaled_output or OUTPUT not in names or is_alone}


T5 = ConfigTable(
    model_type="t5",
    class_name="T5ForConditionalGeneration",
    other_class_names=("T5WithLMHeadModel",),
    config_class=EncoderDecoderConfig,
    keys={
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
        "decoder_start_token_id": ("decoder_start_token_id", 0),
    },
    required={name: FAMILIES["t5"][name] for name in _IMPLIED},
    fixed={"is_encoder_decoder": True, "is_decoder": False},
    dropouts=("dropout_rate",),
    default_dropout=0.1,
    constants={"is_encoder_decoder": True, "use_cache": True},
    read_more=_feed_forward_and_output,
    write_more=_written_more,
    expresses_more=_expresses,
    stored_settings=_stored_output,
)
