"""Settings as frozen dataclasses: what a model, a corpus, a run and a generation are made of.

Nothing here imports TensorFlow, so the command line can check and print every setting at once.
Each field says its meaning and unit in the string beneath it; the command line's help is read
from there. An unknown or ill-typed key is refused with the nearest right name.
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
