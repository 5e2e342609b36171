"""Convert `config.json` of a model folder to `ModelConfig` and back.

A key has the meaning that `transformers` gives it for the folder's `model_type` (`architectures.py`
has the tables). A key that changes what the model computes and that is not supported is refused;
other keys that `transformers` does not read for that type are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tfllm.config import ConfigError, ModelConfig
from tfllm.pretrained.hugging_face.architectures import ARCHITECTURES, Architecture
from tfllm.pretrained.hugging_face.config_values import built, read_key, unsupported
from tfllm.pretrained.hugging_face.rope_parameters import read_rope, written_rope

_FULL, _WINDOW = "full_attention", "sliding_attention"
"""Values of layer_types: a token sees all previous ones, or those in a window."""


# ------------------------------------------------------------------ writing


def to_hugging_face(config: ModelConfig) -> tuple[dict[str, Any], str]:
    """The config.json of an architecture, and why `transformers` cannot read it ("" if it can).

    An architecture that no type of `transformers` expresses has the type "tfllm" and the fields of
    `ModelConfig` as its keys.
    """
    reasons = []
    for model_type, architecture in ARCHITECTURES.items():
        unmet = _unmet(config, architecture)
        if not unmet:
            return _written(config, architecture), ""
        reasons.append(f"{model_type} needs {', '.join(unmet)}")
    values = {"model_type": "tfllm", "architectures": ["CausalLM"], **dataclasses.asdict(config)}
    return values, f"no architecture of transformers is like this one: {'; '.join(reasons)}"


def _unmet(config: ModelConfig, architecture: Architecture) -> list[str]:
    """The values, as field=value, that the type requires and the configuration does not have."""
    needed = dict(architecture.required)
    if not architecture.rope_layers:
        needed["rope_layers"] = None
    if architecture.window == "none":
        needed["sliding_window"] = None
    if architecture.window == "all":
        needed["window_layers"] = None
    if "num_kv_heads" not in architecture.keys:
        needed["num_kv_heads"] = config.num_heads
    if "head_dim" not in architecture.keys:
        needed["head_dim"] = config.embedding_dim // config.num_heads
    unmet = [
        f"{name}={value!r} (here {getattr(config, name)!r})"
        for name, value in needed.items()
        if getattr(config, name) != value
    ]
    values = _bias_values(config, architecture)
    for part, said in architecture.biases.items():
        bias, has = values.get(said, said), config.has_bias(part)
        if bias != has:
            unmet.append(f"{part}_bias={bias} (here {has})")
    if architecture.width_divides and config.embedding_dim % config.num_heads:
        unmet.append(
            "embedding_dim divisible by num_heads "
            f"(here {config.embedding_dim} and {config.num_heads})"
        )
    return unmet


def _bias_values(config: ModelConfig, architecture: Architecture) -> dict[Any, bool]:
    """The values of the keys that say where biases are, taken from the first part of each."""
    values: dict[Any, bool] = {}
    for part, said in architecture.biases.items():
        if isinstance(said, str):
            values.setdefault(said, config.has_bias(part))
    return values


def _written(config: ModelConfig, architecture: Architecture) -> dict[str, Any]:
    values = architecture.written(config)
    inner_key, inner_default = architecture.keys["feed_forward_dim"]
    if inner_default is None and config.feed_forward_dim == 4 * config.embedding_dim:
        values[inner_key] = None
    return {
        **values,
        **_bias_values(config, architecture),
        **(written_rope(config) if architecture.rope_theta is not None else {}),
        **_written_layers(config, architecture),
        **{key: value for key, value in architecture.fixed.items() if value is not None},
    }


def _written_layers(config: ModelConfig, architecture: Architecture) -> dict[str, Any]:
    """The entries for differences between layers: rotation and windows."""
    values: dict[str, Any] = {}
    blocks = range(config.num_layers)
    if architecture.rope_layers:
        values["no_rope_layers"] = [int(config.rotates(i)) for i in blocks]
    if architecture.window == "none":
        return values
    values["sliding_window"] = config.sliding_window
    if architecture.window == "all":
        return values
    windows = _window_blocks(config)
    values["use_sliding_window"] = bool(windows)
    values["layer_types"] = [_WINDOW if i in windows else _FULL for i in blocks]
    if architecture.window == "from max_window_layers":
        # For programs that do not know layer_types; the two agree if these keys can express it.
        first = min(windows, default=config.num_layers)
        values["max_window_layers"] = first
    return values


def _window_blocks(config: ModelConfig) -> set[int]:
    if config.sliding_window is None:
        return set()
    every = range(config.num_layers)
    return set(every if config.window_layers is None else config.window_layers)


# ------------------------------------------------------------------ reading


def from_hugging_face(
    values: Mapping[str, Any], *, where: str, dropout: float | None = None
) -> tuple[str, ModelConfig]:
    """Read the `model_type` and the architecture that config.json describes.

    Args:
        values: Contents of the file.
        where: Name of the file, for errors.
        dropout: Dropout rate to train with. Defaults to that of the file.

    Raises:
        ConfigError: If a type or an option is not supported, a key is missing, or values contradict
            each other.
    """
    model_type = values.get("model_type")
    if model_type == "tfllm":
        known = {field.name for field in dataclasses.fields(ModelConfig)}
        settings = {key: value for key, value in values.items() if key in known}
        if dropout is not None:
            settings["dropout"] = dropout
        return model_type, built(ModelConfig, settings, where)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ConfigError(
            f"{where}: unknown model_type {model_type!r}; "
            f"supported: {', '.join([*ARCHITECTURES, 'tfllm'])}"
        )
    architecture = ARCHITECTURES[model_type]
    settings = architecture.read_settings(values, where, dropout)
    _check_layers(values, architecture, where)
    for part, said in architecture.biases.items():
        if isinstance(said, str):
            said = read_key(values, said, bool, False, where)
        settings[f"{part}_bias"] = said
    if architecture.rope_theta is not None:
        theta, scaling = read_rope(values, architecture.rope_theta, where)
        settings |= {"rope_theta": theta, "rope_scaling": scaling}
    config = built(ModelConfig, settings, where)
    layers = _layers(values, architecture, config.num_layers, where)
    return model_type, built(ModelConfig, {**settings, **layers}, where)


def _check_layers(values: Mapping[str, Any], architecture: Architecture, where: str) -> None:
    if architecture.window == "none" and values.get("use_sliding_window"):
        raise unsupported("use_sliding_window", values["use_sliding_window"], (False,), where)
    flags = values.get("no_rope_layers")
    if not (architecture.rope_layers or flags is None or (isinstance(flags, list) and all(flags))):
        raise unsupported("no_rope_layers", flags, (None,), where)


def unlike_dropouts(values: Mapping[str, Any], known: float | None) -> dict[str, float]:
    """The dropout rates in config.json that our model cannot have.

    Args:
        values: Contents of the file.
        known: Dropout rate that tfllm trained it with; None if it did not.
    """
    architecture = ARCHITECTURES.get(str(values.get("model_type")))
    if architecture is None:
        return {}
    keys = architecture.dropouts
    if keys == ("attention_dropout",):  # of attention weights; ours includes sublayers' results
        rate = values.get(keys[0]) or 0.0
        return {} if rate == (known or 0.0) else {keys[0]: rate}
    return architecture.unlike_dropouts(values)


def _layers(
    values: Mapping[str, Any], architecture: Architecture, num_layers: int, where: str
) -> dict[str, Any]:
    """Read the differences between layers: rotation and windows."""
    rotating = _rotating(values, num_layers, where) if architecture.rope_layers else None
    types = values.get("layer_types")
    if types is not None:
        types = _layer_types(types, num_layers, where)
    size = None
    if "sliding_window" not in values:
        size = architecture.default_window
    elif architecture.window != "none":
        size = read_key(values, "sliding_window", int, None, where)
    if architecture.window == "none":
        size, windows = None, set()
    elif architecture.window == "all":
        windows = set(range(num_layers)) if size is not None else set()
    else:
        size = size if read_key(values, "use_sliding_window", bool, False, where) else None
        if architecture.window == "without rotation":
            derived: Iterable[int] = set(range(num_layers)) - set(rotating or ())
        else:
            first = max(read_key(values, "max_window_layers", int, 28, where), 0)
            derived = range(min(first, num_layers), num_layers)
        windows = set(derived) if size is not None else set()
    if types is not None and architecture.window in ("none", "all") and types != windows:
        raise ConfigError(
            f"{where}: transformers does not read layer_types for this model_type, and they "
            f"contradict its sliding_window={size}; received {values['layer_types']}"
        )
    if types is not None:
        windows = types
    if windows and size is None:
        raise ConfigError(
            f"{where}: layer_types has {_WINDOW!r}, but there is no window: sliding_window="
            f"{values.get('sliding_window')}, use_sliding_window={values.get('use_sliding_window')}"
        )
    return {
        "rope_layers": None if rotating is None else sorted(rotating),
        "sliding_window": size if windows else None,
        "window_layers": sorted(windows) if windows else None,
    }


def _rotating(values: Mapping[str, Any], num_layers: int, where: str) -> set[int]:
    """The blocks that rotate: those with a 1 in no_rope_layers."""
    flags = values.get("no_rope_layers")
    if flags is None:
        interval = read_key(values, "no_rope_layer_interval", int, 4, where)
        if interval < 1:
            raise ConfigError(
                f"{where}: no_rope_layer_interval must be at least 1; received {interval!r}"
            )
        flags = [int((i + 1) % interval != 0) for i in range(num_layers)]
    if (
        not isinstance(flags, list)
        or len(flags) < num_layers
        or any(flag not in (0, 1) for flag in flags)
    ):
        raise ConfigError(
            f"{where}: no_rope_layers must have a 1 (rotary positions) or a 0 for each of the "
            f"{num_layers} layers; received {flags!r}"
        )
    return {i for i in range(num_layers) if flags[i]}


def _layer_types(types: Any, num_layers: int, where: str) -> set[int]:
    """The blocks with a window."""
    for kind in types if isinstance(types, list) else ():
        if kind not in (_FULL, _WINDOW):
            raise unsupported("layer_types", types, (_FULL, _WINDOW), where)
    if not isinstance(types, list) or len(types) != num_layers:
        raise ConfigError(
            f"{where}: layer_types must have one entry for each of the {num_layers} layers; "
            f"received {types!r}"
        )
    return {i for i, kind in enumerate(types) if kind == _WINDOW}
