"""Tiny models with a tokenizer, created once: random ones, and one that follows a script."""

import functools
import re

import numpy as np
import tensorflow as tf

from tests.rounding import additions_of
from tfllm.config import GenerationConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks.language_model.text_generation import TextGeneration
from tfllm.tokenizers import BytePairTokenizer

CONTEXT = 48
TEXTS = ["the cat sat on the mat, and the hat sat on the cat. ", "été naïve 你好 🎉\n"] * 3

SIZES = {
    "vocab_size": 300,
    "embedding_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_dim": 32,
    "max_sequence_length": CONTEXT,
    # Large, so that the logits are far apart and differ with the context.
    "initializer_range": 0.4,
}
CONFIGS = {
    "llama": ModelConfig(**SIZES, num_kv_heads=2),
    "gpt2": ModelConfig(
        **SIZES,
        positions="learned",
        norm="layer",
        activation="gelu_tanh",
        gated=False,
        use_bias=True,
    ),
    "windows": ModelConfig(
        **SIZES,
        sliding_window=4,
        window_layers=(1,),
        rope_layers=(0,),
        query_key_norm=True,
        query_key_value_bias=True,
    ),
    "sinusoidal": ModelConfig(
        **SIZES, positions="sinusoidal", norm_first=False, tied_embeddings=False
    ),
}

ADDITIONS = additions_of(CONFIGS["llama"], CONTEXT) + SIZES["vocab_size"]
"""on the longest way through these models, to a softmax"""


@functools.cache
def tokenizer() -> BytePairTokenizer:
    """Ids 0 and 1 are special; 0 ends a document."""
    return BytePairTokenizer.train(TEXTS, 290, special_tokens=("<|endoftext|>", "<|user|>"))


def model(name: str, dtype: str = "float32") -> CausalLM:
    return _model(name, dtype)


@functools.cache
def _model(name: str, dtype: str) -> CausalLM:
    made = CausalLM(CONFIGS[name], seed=5)
    return made if dtype == "float32" else made.with_dtype(dtype)


def task(name: str = "llama", dtype: str = "float32") -> TextGeneration:
    return _task(name, dtype)


@functools.cache
def _task(name: str, dtype: str) -> TextGeneration:
    return TextGeneration(model(name, dtype), tokenizer(), GenerationConfig(max_new_tokens=8))


@functools.cache
def byte_ids() -> dict[bytes, int]:
    """Bytes to the id of the token that stands for them."""
    tokens = tokenizer().graph().token_bytes.numpy()
    return {token: i for i, token in enumerate(tokens) if token}


TOKEN_BYTES = tf.constant([f"<{i}>" for i in range(300)])
"""the bytes of each token, from which a test reads the tokens of a text"""


def no_stop(text):
    return tf.zeros(tf.shape(text), tf.bool)


def tokens_of(state) -> list[list[int]]:
    return [[int(i) for i in re.findall(r"<(\d+)>", text.decode())] for text in state.text.numpy()]


SCRIPT_LENGTH = 64


@functools.cache
def _scripted() -> TextGeneration:
    config = ModelConfig(
        vocab_size=300,
        embedding_dim=SCRIPT_LENGTH,
        num_layers=1,
        num_heads=1,
        feed_forward_dim=4,
        max_sequence_length=SCRIPT_LENGTH,
        positions="learned",
        tied_embeddings=False,
    )
    # All weights 0: the state is the position's vector alone.
    blank = CausalLM(config, seed=None)
    blank.position_embedding.table.assign(np.eye(SCRIPT_LENGTH, dtype=np.float32))
    blank.final_norm.weights[0].assign(tf.ones_like(blank.final_norm.weights[0]))
    return TextGeneration(blank, tokenizer(), GenerationConfig(max_new_tokens=SCRIPT_LENGTH))


def scripted(tokens) -> TextGeneration:
    """A model that says these tokens (ids or bytes), whatever the prompt, then ends.

    A prompt of n tokens begins with the n-th of them, the empty prompt with the first.
    """
    ids = [token if isinstance(token, int) else byte_ids()[token] for token in tokens]
    kernel = np.zeros((300, SCRIPT_LENGTH), np.float32)
    kernel[0, len(ids) :] = 10
    kernel[ids, np.arange(len(ids))] = 10
    task = _scripted()
    task.model.output_kernel.assign(kernel)
    return task


def spelled(text: str | bytes) -> list[bytes]:
    """The bytes of a text, a token each."""
    data = text.encode() if isinstance(text, str) else text
    return [bytes([byte]) for byte in data]
