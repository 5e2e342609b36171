"""A tiny random model for each chat template of the tokenizers' tests."""

import functools

from tests.tokenizers.template_tokenizers import tokenizer
from tfllm.config import GenerationConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks import Chat

CONFIG = ModelConfig(
    vocab_size=430,
    embedding_dim=16,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    feed_forward_dim=32,
    max_sequence_length=512,
    initializer_range=0.4,
)


@functools.cache
def model() -> CausalLM:
    return CausalLM(CONFIG, seed=7)


@functools.cache
def chat(name: str) -> Chat:
    return Chat(model(), tokenizer(name), GenerationConfig(max_new_tokens=6))
