"""Settings of models, data preparation, training and generation, as frozen dataclasses.

Nothing here imports TensorFlow, so the command line can check and print settings without delay.
The string beneath each field states its meaning and unit, and is also the command line's help.
An unknown key or a value of the wrong type is refused; the error suggests the nearest valid name.
"""

from tfllm.config.data import PrepareConfig
from tfllm.config.generation import GenerationConfig
from tfllm.config.lora import LoraConfig
from tfllm.config.model import ModelConfig, RopeScaling
from tfllm.config.reading import (
    build,
    field_docs,
    field_types,
    read_file,
    read_value,
    to_dict,
    unknown_name,
)
from tfllm.config.rules import ConfigError
from tfllm.config.training import TrainingConfig

__all__ = [
    "ConfigError",
    "GenerationConfig",
    "LoraConfig",
    "ModelConfig",
    "PrepareConfig",
    "RopeScaling",
    "TrainingConfig",
    "build",
    "field_docs",
    "field_types",
    "read_file",
    "read_value",
    "to_dict",
    "unknown_name",
]
