"""tfllm: from a folder of text to a language model in TensorFlow Serving.

The public names are loaded on first use, so that `import tfllm` (and `tfllm --help`) does not
import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm import model_verbs
from tfllm.lazy_names import lazy_names
from tfllm.version import __version__ as __version__

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    (
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
    ),
)

model_verbs.provide("generate", "tfllm.tasks.model_generation")
model_verbs.provide("from_preset", "tfllm.pretrained.from_preset")
model_verbs.provide("load", "tfllm.tasks.loading")


if TYPE_CHECKING:  # the names, for type checkers and for `lazy_names`
    from tfllm.config import GenerationConfig as GenerationConfig
    from tfllm.config import LoraConfig as LoraConfig
    from tfllm.config import ModelConfig as ModelConfig
    from tfllm.config import PrepareConfig as PrepareConfig
    from tfllm.config import TrainingConfig as TrainingConfig
    from tfllm.models.causal_lm import CausalLM as CausalLM
    from tfllm.models.causal_lm import Transformer as Transformer
    from tfllm.models.encoder import Encoder as Encoder
    from tfllm.models.encoder_config import EncoderConfig as EncoderConfig
    from tfllm.models.encoder_decoder import EncoderDecoder as EncoderDecoder
    from tfllm.models.encoder_decoder_config import EncoderDecoderConfig as EncoderDecoderConfig
    from tfllm.models.heads.masked_language_model import MaskedLanguageModel as MaskedLanguageModel
    from tfllm.models.heads.sentence_encoder import SentenceEncoder as SentenceEncoder
    from tfllm.models.heads.sequence_classifier import SequenceClassifier as SequenceClassifier
    from tfllm.models.heads.span_classifier import SpanClassifier as SpanClassifier
    from tfllm.models.heads.token_classifier import TokenClassifier as TokenClassifier
    from tfllm.pretrained import save as save
    from tfllm.serving import export as export
    from tfllm.tasks import TASKS as TASKS
    from tfllm.tasks import Chat as Chat
    from tfllm.tasks import CodeGeneration as CodeGeneration
    from tfllm.tasks import TextGeneration as TextGeneration
    from tfllm.tasks import evaluate as evaluate
    from tfllm.tasks import generate as generate
    from tfllm.tasks import load as load
    from tfllm.tasks import prepare as prepare
    from tfllm.tokenizers import BytePairTokenizer as BytePairTokenizer
    from tfllm.tokenizers import WordPiece as WordPiece
    from tfllm.training import train as train
