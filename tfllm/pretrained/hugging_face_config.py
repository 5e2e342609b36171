"""`config.json` of a model folder to `ModelConfig` and back.

The meaning of a key is the one that `transformers` gives it for the folder's `model_type`. A key
that changes what the model computes and that we cannot follow is refused; a key that `transformers`
itself does not read for that type is left aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfllm.config import ConfigError, ModelConfig, build, unknown_name
from tfllm.models.presets import FAMILIES

REQUIRED = object()
"""the default of a key that must be there"""

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Architecture(NamedTuple):
    """How one `model_type` says what a `ModelConfig` says.

    Args:
        class_name: what `architectures` names.
        keys: our field to (key in config.json, its default where the key is missing).
        required: values of ours that the type implies.
        fixed: keys that must be missing, null or have this value, since we follow no other.
        activations: our name of an activation to the name that is written.
        constants: what is written besides.
    """

    class_name: str
    keys: dict[str, tuple[str, Any]]
    required: dict[str, Any]
    fixed: dict[str, Any]
    activations: dict[str, str]
    constants: dict[str, Any]


def _implied(family: str, *fields: str) -> dict[str, Any]:
    return {"norm_first": True, **{name: FAMILIES[family][name] for name in fields}}


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        class_name="LlamaForCausalLM",
        keys={
            "vocab_size": ("vocab_size", REQUIRED),
            "embedding_dim": ("hidden_size", REQUIRED),
            "num_layers": ("num_hidden_layers", REQUIRED),
            "num_heads": ("num_attention_heads", REQUIRED),
            "num_kv_heads": ("num_key_value_heads", None),
            "head_dim": ("head_dim", None),
            "feed_forward_dim": ("intermediate_size", REQUIRED),
            "max_sequence_length": ("max_position_embeddings", 2048),
            "norm_epsilon": ("rms_norm_eps", 1e-6),
            "activation": ("hidden_act", "silu"),
            "tied_embeddings": ("tie_word_embeddings", False),
            "initializer_range": ("initializer_range", 0.02),
            "use_bias": ("attention_bias", False),
        },
        required=_implied("llama", "positions", "norm", "gated"),
        fixed={"sliding_window": None, "quantization_config": None},
        activations={"gelu_tanh": "gelu_pytorch_tanh"},
        constants={"use_cache": True, "pretraining_tp": 1},
    ),
    "gpt2": Architecture(
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
        required=_implied("gpt2", "positions", "norm", "gated", "use_bias"),
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "quantization_config": None,
        },
        activations={"gelu_tanh": "gelu_new"},
        constants={"use_cache": True},
    ),
}

_GPT2_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def to_hugging_face(config: ModelConfig) -> tuple[dict[str, Any], str]:
    """What config.json says of an architecture, and why `transformers` cannot read it ("": it can).

    An architecture that no type of `transformers` expresses has the type "tfllm" and the fields of
    `ModelConfig` as its keys.
    """
    reasons = []
    for model_type, architecture in ARCHITECTURES.items():
        unmet = _unmet(config, model_type, architecture)
        if not unmet:
            return _written(config, model_type, architecture), ""
        reasons.append(f"{model_type} needs {', '.join(unmet)}")
    values = {"model_type": "tfllm", "architectures": ["CausalLM"], **dataclasses.asdict(config)}
    return values, f"no architecture of transformers is like this one: {'; '.join(reasons)}"


def _unmet(config: ModelConfig, model_type: str, architecture: Architecture) -> list[str]:
    unmet = [
        f"{name}={value!r} (here {getattr(config, name)!r})"
        for name, value in architecture.required.items()
        if getattr(config, name) != value
    ]
    if config.embedding_dim % config.num_heads:
        unmet.append(
            "embedding_dim divisible by num_heads "
            f"(here {config.embedding_dim} and {config.num_heads})"
        )
    elif model_type == "gpt2":
        if config.num_kv_heads != config.num_heads:
            unmet.append(f"num_kv_heads={config.num_heads} (here {config.num_kv_heads})")
        if config.head_dim != config.embedding_dim // config.num_heads:
            unmet.append(
                f"head_dim={config.embedding_dim // config.num_heads} (here {config.head_dim})"
            )
    return unmet


def _written(config: ModelConfig, model_type: str, architecture: Architecture) -> dict[str, Any]:
    values = {key: getattr(config, name) for name, (key, _) in architecture.keys.items()}
    activation_key = architecture.keys["activation"][0]
    values[activation_key] = architecture.activations.get(config.activation, config.activation)
    if model_type == "llama":
        values |= {
            "mlp_bias": config.use_bias,
            "attention_dropout": config.dropout,
            # The one is the place that transformers reads from version 5 on, the other that of
            # version 4 and of most other readers.
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
        }
    else:
        values |= dict.fromkeys(_GPT2_DROPOUTS, config.dropout)
        if values["n_inner"] == 4 * config.embedding_dim:
            values["n_inner"] = None
    return {
        "model_type": model_type,
        "architectures": [architecture.class_name],
        **values,
        **architecture.constants,
        **{key: value for key, value in architecture.fixed.items() if value is not None},
    }


def from_hugging_face(
    values: Mapping[str, Any], *, where: str, dropout: float | None = None
) -> tuple[str, ModelConfig]:
    """The `model_type` and the architecture that config.json describes.

    Args:
        values: what the file holds.
        where: the file's name, for errors.
        dropout: what to train with instead of what the file says.

    Raises:
        ConfigError: a type or an option that is not supported, a missing key, or values that do
            not fit together.
    """
    model_type = values.get("model_type")
    if model_type == "tfllm":
        known = {field.name for field in dataclasses.fields(ModelConfig)}
        settings = {key: value for key, value in values.items() if key in known}
        if dropout is not None:
            settings["dropout"] = dropout
        return model_type, _build(settings, where)
    if model_type not in ARCHITECTURES:
        supported = [*ARCHITECTURES, "tfllm"]
        raise ConfigError(
            unknown_name("model_type", str(model_type), supported, where)
            + f" (supported: {', '.join(supported)})"
        )
    architecture = ARCHITECTURES[model_type]
    for key, value in architecture.fixed.items():
        if values.get(key) not in (None, value):
            raise _unsupported(key, values[key], value, where)

    settings = dict(architecture.required)
    for name, (key, default) in architecture.keys.items():
        value = values.get(key)
        if value is None:
            value = default
        if value is REQUIRED:
            raise ConfigError(f"{where} has no {key!r}, which a {model_type} needs")
        if value is not None:
            settings[name] = value
    activation_key = architecture.keys["activation"][0]
    if settings["activation"] not in _ACTIVATIONS:
        raise ConfigError(
            unknown_name(activation_key, str(settings["activation"]), _ACTIVATIONS, where)
        )
    settings["activation"] = _ACTIVATIONS[settings["activation"]]
    if model_type == "llama":
        settings["rope_theta"] = _rope_theta(values, where)
        if bool(values.get("mlp_bias")) != settings["use_bias"]:
            raise ConfigError(
                f"{where}: attention_bias and mlp_bias must be alike, since here all projections "
                f"have biases or none has; received attention_bias={values.get('attention_bias')}, "
                f"mlp_bias={values.get('mlp_bias')}"
            )
        rates = [values.get("attention_dropout") or 0.0]
    else:
        rates = [0.1 if values.get(name) is None else values[name] for name in _GPT2_DROPOUTS]
    if dropout is None and len(set(rates)) > 1:
        raise ConfigError(
            f"{where}: there is one dropout for the whole model; received "
            + ", ".join(f"{n}={r}" for n, r in zip(_GPT2_DROPOUTS, rates, strict=True))
            + ". Give dropout=... (it acts in training alone)"
        )
    settings["dropout"] = rates[0] if dropout is None else dropout
    return model_type, _build(settings, where)


def _build(settings: Mapping[str, Any], where: str) -> ModelConfig:
    try:
        return build(ModelConfig, settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _rope_theta(values: Mapping[str, Any], where: str) -> float:
    """The base of the rotary angles, from its new place or its old one."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    name = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise _unsupported(f"{name}.rope_type", kind, "default", where)
    for place in (rope, values):
        if place.get("partial_rotary_factor") not in (None, 1.0):
            raise _unsupported("partial_rotary_factor", place["partial_rotary_factor"], 1.0, where)
    return rope.get("rope_theta") or values.get("rope_theta") or 10000.0


def _unsupported(key: str, received: Any, supported: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {key} is supported with the value {supported!r} alone; received {received!r}. "
        "Another value would change what the model computes, so the model is not loaded"
    )
