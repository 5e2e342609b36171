"""tfllm: from a folder of text to a language model that TensorFlow Serving answers with.

The public names load on first use, so that `import tfllm` (and `tfllm --help`) does not import
TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfllm import model_verbs

__version__ = "0.1.0"

_PUBLIC = {
    "ModelConfig": "tfllm.config",
    "PrepareConfig": "tfllm.config",
    "TrainingConfig": "tfllm.config",
    "GenerationConfig": "tfllm.config",
    "LoraConfig": "tfllm.config",
    "CausalLM": "tfllm.models.causal_lm",
    "Transformer": "tfllm.models.causal_lm",
    "EncoderConfig": "tfllm.models.encoder_config",
    "Encoder": "tfllm.models.encoder",
    "SentenceEncoder": "tfllm.models.heads.sentence_encoder",
    "MaskedLanguageModel": "tfllm.models.heads.masked_language_model",
    "SequenceClassifier": "tfllm.models.heads.sequence_classifier",
    "TokenClassifier": "tfllm.models.heads.token_classifier",
    "SpanClassifier": "tfllm.models.heads.span_classifier",
    "EncoderDecoderConfig": "tfllm.models.encoder_decoder_config",
    "EncoderDecoder": "tfllm.models.encoder_decoder",
    "BytePairTokenizer": "tfllm.tokenizers",
    "WordPiece": "tfllm.tokenizers",
    "TaskDataConfig": "tfllm.data",
    "prepare": "tfllm.data",
    "train": "tfllm.training",
    "evaluate": "tfllm.evaluation",
    "load": "tfllm.pretrained",
    "save": "tfllm.pretrained",
    "TextGeneration": "tfllm.tasks",
    "Chat": "tfllm.tasks",
    "CodeGeneration": "tfllm.tasks",
    "TASKS": "tfllm.tasks",
    "evaluate_task": "tfllm.tasks",
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

model_verbs.provide("generate", "tfllm.tasks.model_generation")
model_verbs.provide("from_preset", "tfllm.pretrained.from_preset")

__all__ = [
    "TASKS",
    "BytePairTokenizer",
    "CausalLM",
    "Chat",
    "CodeGeneration",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "GenerationConfig",
    "LoraConfig",
    "MaskedLanguageModel",
    "ModelConfig",
    "PrepareConfig",
    "SentenceEncoder",
    "SequenceClassifier",
    "SpanClassifier",
    "TaskDataConfig",
    "TextGeneration",
    "TokenClassifier",
    "TrainingConfig",
    "Transformer",
    "WordPiece",
    "__version__",
    "evaluate",
    "evaluate_task",
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
    from tfllm.data import TaskDataConfig, prepare
    from tfllm.evaluation import evaluate
    from tfllm.models.causal_lm import CausalLM, Transformer
    from tfllm.models.encoder import Encoder
    from tfllm.models.encoder_config import EncoderConfig
    from tfllm.models.encoder_decoder import EncoderDecoder
    from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
    from tfllm.models.heads.masked_language_model import MaskedLanguageModel
    from tfllm.models.heads.sentence_encoder import SentenceEncoder
    from tfllm.models.heads.sequence_classifier import SequenceClassifier
    from tfllm.models.heads.span_classifier import SpanClassifier
    from tfllm.models.heads.token_classifier import TokenClassifier
    from tfllm.pretrained import load, save
    from tfllm.tasks import (
        TASKS,
        Chat,
        CodeGeneration,
        TextGeneration,
        evaluate_task,
        generate,
        load_task,
    )
    from tfllm.tokenizers import BytePairTokenizer, WordPiece
    from tfllm.training import train
