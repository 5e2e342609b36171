"""The causal language model that a run trains: a new one, or a pretrained one."""

from __future__ import annotations

from pathlib import Path

from tfllm import pretrained
from tfllm.config import ModelConfig, TrainingConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.precision import dtype_policy
from tfllm.pretrained import Pretrained
from tfllm.pretrained.hugging_face.decoder_config import from_hugging_face
from tfllm.pretrained.keras_hub.models import is_keras_hub_preset
from tfllm.pretrained.model_folder import model_folder
from tfllm.pretrained.model_source import open_source


def new_model(config: ModelConfig, training: TrainingConfig) -> CausalLM:
    """Create a model with random weights, determined by the seed of the training."""
    return CausalLM(
        config,
        seed=training.seed,
        rematerialize=training.rematerialize,
        dtype=dtype_policy(training.precision),
    )


def pretrained_config(path: str | Path) -> ModelConfig:
    """Read the architecture of a pretrained model, without its weights.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: the model cannot be read.
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
    """Load a pretrained model, and set which of its weights are trained."""
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
