"""Losses of documents compared with an independent computation: token by token, in NumPy."""

import numpy as np
import pytest

from tests.rounding import about, additions_of, in_double
from tfllm.config import ModelConfig
from tfllm.evaluation.document_losses import document_losses
from tfllm.models.causal_lm import CausalLM
from tfllm.tokenizers import BytePairTokenizer

TEXTS = ["the cat sat on the mat", "x", "ünïcode — and more of it, much more than fits" * 3]


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(TEXTS, 280)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(tokenizer.vocab_size, 16, 1, 2, max_sequence_length=48)
    return CausalLM(config, seed=1)


def by_hand(model, tokenizer, text, length, stride):
    ids = [tokenizer.end_token_id, *tokenizer.encode(text)]
    total = 0.0
    for i in range(1, len(ids)):
        # The first window that has the token as a label.
        begin = 0
        while begin + length < i:
            begin += stride
        context = ids[begin:i]
        logits = model(np.array([context])).numpy()[0, -1].astype(np.float64)
        total -= logits[ids[i]] - np.log(np.exp(logits).sum())
    return total, len(ids) - 1


@pytest.mark.parametrize(("length", "stride"), [(48, 24), (10, 10), (7, 3)])
def test_every_token_counts_once_with_what_its_window_shows(model, tokenizer, length, stride):
    result = document_losses(
        model, tokenizer, TEXTS, sequence_length=length, stride=stride, batch_size=4
    )
    texts = TEXTS if length == 48 else TEXTS[:2]
    additions = additions_of(model.config, length) + tokenizer.vocab_size  # and a softmax
    for i, text in enumerate(texts):
        total, num = by_hand(model, tokenizer, text, length, stride)
        assert result.losses[i] == about(total, additions)
        assert result.num_tokens[i] == num
    assert result.num_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    perplexity, bits = result.metrics()
    assert np.log(perplexity.value) == in_double(result.losses.sum() / result.num_tokens.sum())
    assert bits.value == in_double(result.losses.sum() / np.log(2) / result.num_bytes.sum())


def test_bad_input_is_told(model, tokenizer):
    with pytest.raises(ValueError, match="text 2 is: leave it out"):
        document_losses(model, tokenizer, ["a", ""])
    with pytest.raises(ValueError, match=r"context \(48\); received 49"):
        document_losses(model, tokenizer, ["a"], sequence_length=49)
    with pytest.raises(ValueError, match=r"stride must be from 1 to sequence_length \(8\)"):
        document_losses(model, tokenizer, ["a"], sequence_length=8, stride=9)
