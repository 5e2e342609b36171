"""Perplexity compared with an independent computation: document by document, in NumPy."""

import math

import numpy as np
import pytest

from tests.data.conftest import make_documents
from tests.rounding import about, additions_of, in_double
from tfllm.config import ModelConfig, PrepareConfig
from tfllm.data import PreparedData
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks import evaluate, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    folder = tmp_path_factory.mktemp("text")
    for i, text in enumerate(make_documents(12, longest=30)):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    config = PrepareConfig(vocab_size=300, validation_fraction=0.3, num_processes=1)
    return prepare(folder, folder / "out", config, show_progress=False)


@pytest.fixture(scope="module")
def model(data) -> CausalLM:
    config = ModelConfig(data.vocab_size, 16, 1, 2, max_sequence_length=32, initializer_range=0.3)
    return CausalLM(config, seed=1)


def losses_by_hand(model: CausalLM, data: PreparedData, length: int) -> list[float]:
    tokens = data.validation.read(0, data.validation.num_tokens).tolist()
    losses = []
    for start in range(0, len(tokens) - 1, length):
        row = tokens[start : start + length + 1]
        # An end token is predicted from the document that it ends, and begins the next one.
        begins = [0, *(i for i in range(1, len(row) - 1) if row[i] == data.end_token_id)]
        for begin, end in zip(begins, [*begins[1:], len(row) - 1], strict=True):
            document = row[begin : end + 1]
            logits = model(np.array([document[:-1]])).numpy()[0].astype(np.float64)
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            losses += [-log_probs[i, token] for i, token in enumerate(document[1:])]
    return losses


def additions(data, model):
    """To a logit, over its row's exponentials, and over a batch's tokens."""
    return additions_of(model.config, 24) + data.vocab_size + 64 * 24


def test_it_is_exp_of_the_mean_loss_a_token(model, data):
    losses = losses_by_hand(model, data, 24)
    result = evaluate(model, data, sequence_length=24, batch_size=4)
    assert result.num_tokens == len(losses)
    assert result.loss == about(np.mean(losses), additions(data, model))
    # exp makes the loss's absolute error a relative one.
    assert math.log(result.perplexity) == about(np.mean(losses), additions(data, model))
    assert not model.compiled  # the model is as it was


def test_it_does_not_depend_on_the_batch_size(model, data):
    one = evaluate(model, data, sequence_length=24, batch_size=1)
    many = evaluate(model, data, sequence_length=24, batch_size=64)
    assert many.num_tokens == one.num_tokens
    assert many.loss == about(one.loss, additions(data, model))


def test_the_loss_that_a_model_was_compiled_with_does_not_matter(data, model):
    other = CausalLM(model.config, seed=1)
    other.compile("sgd", loss="mse")
    expected = evaluate(model, data, sequence_length=24)
    assert evaluate(other, data, sequence_length=24).loss == about(
        expected.loss, additions(data, model)
    )


def test_unigram_perplexity_and_bits_per_byte(model, data):
    result = evaluate(model, data)
    train = np.bincount(data.train.read(0, data.train.num_tokens), minlength=data.vocab_size) + 1
    held_out = data.validation.read(0, data.validation.num_tokens)
    expected = math.exp(-np.log(train / train.sum())[held_out].mean())
    assert result.unigram_perplexity == in_double(expected)
    bytes_per_token = data.validation.num_bytes / data.validation.num_tokens
    assert result.bits_per_byte == in_double(result.loss / math.log(2) / bytes_per_token)


def test_a_part_of_the_train_split_can_be_measured(model, data):
    result = evaluate(model, data.folder, split="train", num_batches=2, batch_size=1)
    assert 0 < result.num_tokens <= 2 * 32


def test_foreign_data_is_refused(model, data, tmp_path):
    small = CausalLM(ModelConfig(100, 16, 1, 2), seed=None)
    with pytest.raises(ValueError, match=r"prepared with the model's tokenizer.* the model 100"):
        evaluate(small, data)
    (tmp_path / "other.txt").write_text("quite another text, zzz! " * 200)
    config = PrepareConfig(vocab_size=280, num_processes=1)
    other = prepare(tmp_path / "other.txt", tmp_path / "out", config, show_progress=False)
    with pytest.raises(ValueError, match="gives other token ids for the same text"):
        evaluate(model, data, tokenizer=other.tokenizer)
    evaluate(model, data, tokenizer=data.tokenizer, num_batches=1)


def test_rows_longer_than_the_context_are_refused(model, data):
    with pytest.raises(ValueError, match=r"at most the model's context \(32\); received 64"):
        evaluate(model, data, sequence_length=64)
    with pytest.raises(ValueError, match="split must be one of"):
        evaluate(model, data, split="test")
