"""tfllm: from a folder of text to a language model that TensorFlow Serving answers with.

The public names load on first use, so that `import tfllm` (and `tfllm --help`) does not import
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ModelConfig": "tfllm.config",
    "PrepareConfig": "tfllm.config",
    "TrainingConfig": "tfllm.config",
    "GenerationConfig": "tfllm.config",
    "LoraConfig": "tfllm.config",
    "CausalLM": "tfllm.models.causal_lm",
    "Transformer": "tfllm.models.causal_lm",
    "BytePairTokenizer": "tfllm.tokenizers",
    "prepare": "tfllm.data",
    "train": "tfllm.training",
    "evaluate": "tfllm.evaluation",
    "load": "tfllm.pretrained",
    "save": "tfllm.pretrained",
    "TextGeneration": "tfllm.tasks",
    "Chat": "tfllm.tasks",
    "load_task": "tfllm.tasks",
    "generate": "tfllm.tasks",
}
_SUBPACKAGES = (
    "config",
    "layers",
    "models",
    "tokenizers",
    "data",
    "tasks",
    "training",
    "generation",
    "evaluation",
    "pretrained",
    "serving",
)

__all__ = [
    "BytePairTokenizer",
    "CausalLM",
    "Chat",
    "GenerationConfig",
    "LoraConfig",
    "ModelConfig",
    "PrepareConfig",
    "TextGeneration",
    "TrainingConfig",
    "Transformer",
    "__version__",
    "evaluate",
    "generate",
    "load",
    "load_task",
    "prepare",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"tfllm.{name}")
    raise AttributeError(f"module 'tfllm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])


if TYPE_CHECKING:  # what an editor and a type checker see
    from tfllm.config import (
        GenerationConfig,
        LoraConfig,
        ModelConfig,
        PrepareConfig,
        TrainingConfig,
    )
    from tfllm.data import prepare
    from tfllm.evaluation import evaluate
    from tfllm.models.causal_lm import CausalLM, Transformer
    from tfllm.pretrained import load, save
    from tfllm.tasks import Chat, TextGeneration, generate, load_task
    from tfllm.tokenizers import BytePairTokenizer
    from tfllm.training import train
