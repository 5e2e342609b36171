"""`config.json` of a BERT folder to `EncoderConfig` and back, and what it says of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.models.encoder_config import EncoderConfig
from tfllm.pretrained.hugging_face.architectures import ACTIVATIONS, REQUIRED, UNSUPPORTED
from tfllm.pretrained.hugging_face.config_values import (
    built,
    one_dropout,
    read_key,
    unlike_rates,
    unsupported,
)

_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "embedding_dim": ("hidden_size", REQUIRED),
    "num_layers": ("num_hidden_layers", REQUIRED),
    "num_heads": ("num_attention_heads", REQUIRED),
    "feed_forward_dim": ("intermediate_size", REQUIRED),
    "max_sequence_length": ("max_position_embeddings", 512),
    "num_token_types": ("type_vocab_size", 2),
    "norm_epsilon": ("layer_norm_eps", 1e-12),
    "activation": ("hidden_act", "gelu"),
    "initializer_range": ("initializer_range", 0.02),
}
"""our field to (key in config.json, its default where the key is missing or null)"""

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_DEFAULT_DROPOUT = 0.1
_FIXED: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_ONE_LABEL = "single_label_classification"


def read_bert(values: Mapping[str, Any], where: str, dropout: float | None) -> EncoderConfig:
    """The architecture that config.json describes.

    Args:
        values: what the file holds.
        where: the file's name, for errors.
        dropout: what to train with instead of what the file says.

    Raises:
        ConfigError: an option that is not supported, a missing key, or values that do not fit
            together.
    """
    for key, harmless in UNSUPPORTED.items():
        if values.get(key) is not None and values[key] not in harmless:
            raise unsupported(key, values[key], (None, *harmless), where)
    for key, value in _FIXED.items():
        if values.get(key) not in (None, value):
            raise unsupported(key, values[key], (value,), where)
    settings: dict[str, Any] = {}
    for name, (key, default) in _KEYS.items():
        value = default if values.get(key) is None else values[key]
        if value is REQUIRED:
            raise ConfigError(f"{where} has no {key!r}, which a bert needs")
        settings[name] = value
    activation = str(settings["activation"])
    if activation not in ACTIVATIONS:
        raise ConfigError(unknown_name("hidden_act", activation, ACTIVATIONS, where))
    settings["activation"] = ACTIVATIONS[activation]
    if dropout is None:
        dropout = one_dropout(values, _dropouts(values), _DEFAULT_DROPOUT, where)
    return built(EncoderConfig, {**settings, "dropout": dropout}, where)


def _dropouts(values: Mapping[str, Any]) -> tuple[str, ...]:
    has_own = values.get("classifier_dropout") is not None
    return (*_DROPOUTS, "classifier_dropout") if has_own else _DROPOUTS


def unlike_dropouts(values: Mapping[str, Any], known: float | None) -> dict[str, float]:
    """The dropouts in config.json where they differ."""
    del known
    return unlike_rates(values, _dropouts(values), _DEFAULT_DROPOUT)


def written_bert(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says of an architecture."""
    values = {key: getattr(config, name) for name, (key, _) in _KEYS.items()}
    values["hidden_act"] = {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation)
    return {
        "model_type": "bert",
        **values,
        **dict.fromkeys(_DROPOUTS, config.dropout),
        "position_embedding_type": "absolute",
        "use_cache": True,
    }


def read_labels(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The labels of a classifier, as arguments of its constructor: `num_labels`, `label_names`.

    Raises:
        ConfigError: another kind of classifier, or names that are not numbered from 0.
    """
    if values.get("problem_type") not in (None, _ONE_LABEL):
        raise unsupported("problem_type", values["problem_type"], (None, _ONE_LABEL), where)
    names = values.get("id2label")
    if names is None:
        number = read_key(values, "num_labels", int, 2, where)
        if not 2 <= number <= 1_000_000:
            raise ConfigError(f"{where}: num_labels must be at least 2; received {number}")
        return {"num_labels": number}
    wanted = {str(i) for i in range(len(names))} if isinstance(names, Mapping) else None
    if wanted is None or {str(key) for key in names} != wanted or len(names) < 2:
        raise ConfigError(
            f"{where}: id2label must name two or more labels by their numbers, from 0 on; "
            f"received {names!r}"
        )
    by_number = {str(key): name for key, name in names.items()}
    ordered = [by_number[str(i)] for i in range(len(names))]
    if not all(isinstance(name, str) for name in ordered) or len(set(ordered)) < len(ordered):
        raise ConfigError(f"{where}: id2label must hold different names; received {names!r}")
    return {"num_labels": len(ordered), "label_names": ordered}


def written_labels(names: tuple[str, ...]) -> dict[str, Any]:
    """What config.json says of a classifier's labels."""
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
