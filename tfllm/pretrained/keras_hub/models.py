"""KerasHub's (KerasNLP's) models: preset folders, their tokenizers, copies in another dtype.

Nothing is converted: the model stays KerasHub's own object. KerasHub is imported when one of these
functions needs it.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import keras

from tfllm.config import ConfigError
from tfllm.files import read_json, readable_json
from tfllm.keras_internals import layers_of, own_weights
from tfllm.optimization.training_step import TrainingStep

_PACKAGES = ("keras_hub", "keras_nlp", "keras")
"""whose classes a preset may name: reading a preset imports the modules that it names"""

_DTYPES = ("float32", "bfloat16", "float16")
_POLICIES = (*_DTYPES, "mixed_bfloat16", "mixed_float16")


def is_keras_hub_preset(path: str | Path) -> bool:
    """Whether a path is a folder that KerasHub's `save_to_preset` wrote (no KerasHub is needed)."""
    config = readable_json(Path(path) / "config.json")
    if not isinstance(config, dict) or "class_name" not in config:
        return False
    names = f"{config.get('registered_name')} {config.get('module')}"
    return "keras_hub" in names or "keras_nlp" in names


def is_keras_hub_model(model: Any) -> bool:
    """Whether an object is a `CausalLM` of KerasHub (without importing it)."""
    keras_hub = sys.modules.get("keras_hub")
    return keras_hub is not None and isinstance(model, keras_hub.models.CausalLM)


def load_keras_hub(preset: str | Path, *, dtype: str | None = None) -> Any:
    """The `CausalLM` of a KerasHub preset folder.

    Args:
        preset: the folder.
        dtype: Dtype of weights and products, or a policy such as "mixed_bfloat16". Defaults to the
            saved one.

    Raises:
        FileNotFoundError: If the path is no such folder.
        ConfigError: If a model cannot have this dtype.
        ValueError: the preset is not of a `CausalLM`, or names classes that are not KerasHub's.
        OSError: If a file of the folder cannot be read.
    """
    _check_dtype(dtype or "float32", _POLICIES)
    folder = Path(preset)
    if not is_keras_hub_preset(folder):
        raise FileNotFoundError(
            f"{preset} is not a KerasHub preset: a folder with the config.json of a KerasHub "
            "backbone, as `model.save_to_preset(folder)` writes it"
        )
    for file in sorted(folder.glob("*.json")):
        _check_modules(file)
    import keras_hub

    options = {} if dtype is None else {"dtype": dtype}
    try:
        model = keras_hub.models.CausalLM.from_preset(str(folder), **options)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} is not read by KerasHub {keras_hub.__version__}: {error}"
        ) from error
    return model


def _check_dtype(dtype: str, allowed: tuple[str, ...]) -> None:
    if dtype not in allowed:
        raise ConfigError(
            f"the dtype of a KerasHub model must be one of {', '.join(allowed)}; received "
            f"{dtype!r}. For weights of 8 bits quantize it: model.backbone.quantize('int8')"
        )


def _check_modules(file: Path) -> None:
    """Refuse a file that names modules other than those of Keras and KerasHub."""
    pending = [read_json(file)]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            module = value.get("module")
            if isinstance(module, str) and module.split(".")[0] not in _PACKAGES:
                raise ValueError(
                    f"a preset may name classes of {', '.join(_PACKAGES)} alone; {file} names "
                    f"{value.get('class_name')} of {module}, and reading it would run that "
                    "module's code"
                )


# ---------------------------------------------------------------------- weights


def in_one_dtype(model: Any) -> Any:
    """The model, or a copy with weights stored in the dtype of computation and LoRA merged.

    A model with a mixed-precision policy would convert all weights again for each token, and one
    with LoRA would multiply all factors.
    """
    backbone = model.backbone
    if _is_quantized(backbone):
        return model
    mixed = backbone.compute_dtype != backbone.variable_dtype
    if mixed or any(
        getattr(layer, "lora_enabled", False) for layer in layers_of(backbone, with_itself=True)
    ):
        return with_dtype(model, backbone.compute_dtype)
    return model


def with_dtype(model: Any, dtype: str) -> Any:
    """A copy with weights and computation in another dtype; LoRA's factors are merged.

    Raises:
        ConfigError: If dtype is not supported.
        ValueError: If the model is quantized.
    """
    _check_dtype(dtype, _DTYPES)
    if _is_quantized(model.backbone):
        raise ValueError(
            "the dtype of a quantized KerasHub model cannot be changed; quantize it after its "
            f"dtype is chosen, or leave dtype out (received {dtype!r})"
        )
    backbone = _backbone_like(model.backbone, dtype)
    rest = {
        name: value
        for name, value in model.get_config().items()
        if name not in ("backbone", "preprocessor")
    }
    import keras_hub

    # The class of a model that was trained with our step includes that step.
    own = (c for c in type(model).__mro__ if not issubclass(c, TrainingStep))
    cls: Any = next(c for c in own if issubclass(c, keras_hub.models.CausalLM))
    return cls(backbone=backbone, preprocessor=model.preprocessor, **rest)


def _backbone_like(old: Any, dtype: str) -> Any:
    """A backbone with the weights of another one in another dtype."""
    config = {**old.get_config(), "dtype": dtype}
    for cls in type(old).__mro__:  # get_config leaves out some: Llama's tied embedding
        made_with = inspect.signature(vars(cls).get("__init__", object))
        for name in made_with.parameters.keys() & vars(old).keys() - config.keys():
            config[name] = vars(old)[name]
    # Not every backbone passes its dtype on to all its layers (SmolLM 3 does not).
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        new = type(old).from_config(config)
    finally:
        keras.config.set_dtype_policy(policy)
    layers, others = layers_of(new, with_itself=True), layers_of(old, with_itself=True)
    if [_shapes(x) for x in layers] != [_shapes(x) for x in others]:
        raise ValueError(
            f"the get_config() of {type(old).__name__} does not describe it fully, so it cannot be "
            f"copied to another dtype; build it with dtype={dtype!r}"
        )
    for mine, theirs in zip(layers, others, strict=True):
        _copy_weights(mine, theirs)
    return new


def _shapes(layer: Any) -> list[tuple[str, Any]]:
    """The names and shapes of a layer's own weights, without LoRA's factors."""
    return [(v.name, tuple(v.shape)) for v in own_weights(layer) if not v.name.startswith("lora_")]


def _is_quantized(backbone: Any) -> bool:
    return any(
        getattr(layer, "quantization_mode", None) for layer in layers_of(backbone, with_itself=True)
    )


def _copy_weights(new: Any, old: Any) -> None:
    theirs = {v.name: v for v in own_weights(old)}
    assert len(theirs) == len(own_weights(old)), f"two weights of one name in {old.name}"
    for mine in own_weights(new):
        value = theirs[mine.name]
        if getattr(old, "lora_enabled", False) and mine.name in ("kernel", "embeddings"):
            value = getattr(old, mine.name)  # includes the factors' product
        mine.assign(value)
