"""The pretrained model that a run begins with, and what of it is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras

from tfllm import pretrained
from tfllm.config import ConfigError, ModelConfig, TrainingConfig
from tfllm.data import PreparedData
from tfllm.models.presets import PRESETS
from tfllm.optimization.precision import dtype_policy
from tfllm.pretrained import Pretrained
from tfllm.pretrained.fingerprint import same_weights
from tfllm.pretrained.hugging_face.decoder_config import from_hugging_face
from tfllm.pretrained.keras_hub.models import is_keras_hub_preset
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_source import open_source


def is_pretrained(model: Any) -> bool:
    """Whether what a run was given is the path or name of a pretrained model, and no preset."""
    if isinstance(model, Path):
        return True
    if not isinstance(model, str) or model in PRESETS:
        return False
    looks_like_a_path = any(mark in model for mark in ("/", "\\")) or model.endswith(".gguf")
    return looks_like_a_path or Path(model).exists()


def pretrained_config(path: str | Path) -> ModelConfig:
    """The architecture of a pretrained model, whose weights are not read.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it cannot be read.
    """
    place = model_folder(path)
    if is_keras_hub_preset(place):
        raise ValueError(
            f"a run trains models of tfllm, and {place} is a preset of KerasHub; "
            "tfllm.pretrained.load_keras_hub(path) gives its model, whose backbone has "
            "enable_lora(rank), and TrainingStep.of(model) fits it"
        )
    source = open_source(place)
    return from_hugging_face(source.config, where=source.where)[1]


def load_base(path: str, config: TrainingConfig) -> Pretrained:
    """A pretrained model, ready to be trained as the settings say."""
    lora = config.trainable == "lora"
    dtype = dtype_policy(config.precision)
    if lora and config.base_dtype == "bfloat16":
        dtype = "bfloat16"
    elif lora and config.base_dtype == "int8":
        dtype = f"int8_{config.precision}"
    base = pretrained.load(
        path,
        dtype=dtype,
        rematerialize=config.rematerialize,
        seed=config.seed,
    )
    if lora:
        base.model.add_adapter(config.lora())
    elif config.trainable == "top":
        assert config.top_layers is not None
        base.model.train_top(config.top_layers)
    return base


def check_fingerprint(path: str, now: dict[str, Any], then: dict[str, Any]) -> None:
    """Refuse a base whose weights are not those that a run began with.

    Raises:
        ConfigError: they are not.
    """
    if not same_weights(now, then):
        raise ConfigError(
            f"the run began with other weights than those of {path}: it was changed since, or is "
            "another model. Give the one that the run began with, or start a new run"
        )


def check_tokenizer(base: Pretrained, path: str, data: PreparedData) -> None:
    """Refuse data that were prepared with another tokenizer than the model's.

    Raises:
        ConfigError: the same text has other ids.
    """
    if base.tokenizer is None:
        return
    ours = data.tokenizer
    text = ours.decode(data.train.read(0, 2000).tolist())
    ids = [tokenizer.encode(text, parse_special=False) for tokenizer in (base.tokenizer, ours)]
    if ids[0] != ids[1] or base.tokenizer.end_token_id != data.end_token_id:
        raise ConfigError(
            f"{data.folder} was prepared with another tokenizer than that of {path}; prepare it "
            f"with tokenizer={path}"
        )


def num_trained(model: keras.Model) -> int:
    """How many of the weights' numbers are trained."""
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)
