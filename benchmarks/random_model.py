"""A model of a size with random weights, and a tokenizer for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfllm.config import GenerationConfig
from tfllm.data import documents, find_files
from tfllm.models.causal_lm import CausalLM
from tfllm.models.sizes.decoders import DECODER_SIZES
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tokenizers import BytePairTokenizer

TEXT = Path(__file__).parents[1] / "examples" / "data" / "state_of_the_union.jsonl.gz"


def random_task(name: str, dtype: str, **settings: object) -> TextGeneration:
    """Text generation with random weights and a small tokenizer trained on the example text."""
    texts = (text for file in find_files([TEXT]) for text in documents(file))
    tokenizer = BytePairTokenizer.train(texts, 4096)
    config = DECODER_SIZES.config(name)
    # No end token: every row runs to its limit.
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, 4096))
    model = CausalLM(config, dtype=dtype)
    return TextGeneration(model, tokenizer, GenerationConfig(**settings))  # type: ignore[arg-type]
