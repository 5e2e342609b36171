"""Convert `config.json` of a BERT folder to `EncoderConfig` and back, and read its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError
from tfllm.models.encoder_config import EncoderConfig
from tfllm.pretrained.hugging_face.architectures import UNSUPPORTED
from tfllm.pretrained.hugging_face.config_table import REQUIRED, ConfigTable
from tfllm.pretrained.hugging_face.config_values import read_key, unsupported

BERT = ConfigTable(
    model_type="bert",
    class_name="BertModel",
    config_class=EncoderConfig,
    keys={
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
    },
    unsupported=UNSUPPORTED,
    fixed={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    default_dropout=0.1,
    optional_dropouts=("classifier_dropout",),
    constants={"position_embedding_type": "absolute", "use_cache": True},
)
_ONE_LABEL = "single_label_classification"


def read_labels(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the labels of a classifier, as arguments of its class: `num_labels`, `label_names`.

    Raises:
        ConfigError: If it is another kind of classifier, or the names are not numbered from 0.
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
    """The entries of config.json for a classifier's labels."""
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
