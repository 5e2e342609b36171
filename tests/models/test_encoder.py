"""Encoders and their heads: losses compared with NumPy, and the contract of each."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import about, additions_of, assert_rounded
from tfllm.config import ConfigError
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.heads.sentence_encoder import SentenceEncoder
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.models.heads.span_classifier import SpanClassifier
from tfllm.models.heads.token_classifier import TokenClassifier

B, T, V, E = 6, 11, 53, 12
CONFIG = EncoderConfig(
    vocab_size=V,
    embedding_dim=E,
    num_layers=2,
    num_heads=3,
    feed_forward_dim=20,
    max_sequence_length=16,
    dropout=0.0,
    initializer_range=0.2,
)
ADDITIONS = additions_of(CONFIG, T) + V + B * T
"""on the longest way through an encoder to a loss of all tokens"""
HEADS = {
    "sequence": (SequenceClassifier, {"num_labels": 4}),
    "token": (TokenClassifier, {"label_names": ["O", "B", "I"]}),
    "span": (SpanClassifier, {}),
    "sentence": (SentenceEncoder, {"temperature": 0.1}),
    "masked": (MaskedLanguageModel, {}),
}


def made(name, config=CONFIG, **options):
    cls, more = HEADS[name]
    return cls(config, seed=1, **more, **options)


def data_of(name, rng):
    """Inputs, labels and weights, with padding and uneven weights."""
    shape = (B, 2, T) if name == "sentence" else (B, T)
    lengths = rng.integers(2, T + 1, shape[:-1])
    mask = np.arange(T) < lengths[..., np.newaxis]
    inputs = {
        "token_ids": rng.integers(0, V, shape).astype(np.int32),
        "token_type_ids": rng.integers(0, 2, shape).astype(np.int32),
        "padding_mask": mask,
    }
    weights = rng.uniform(0.5, 2, B).astype(np.float32)
    if name == "sequence":
        return inputs, rng.integers(0, 4, B), weights
    if name == "span":
        return inputs, rng.integers(0, 2, (B, 2)), weights
    if name == "sentence":
        return inputs, np.array([0, 1, 2, 3, 1, 4]), weights
    labels = rng.integers(0, 3, (B, T))
    return inputs, labels, mask * rng.uniform(0.5, 2, (B, T)) * (rng.random((B, T)) < 0.5)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def picked(log_probs, labels):
    return np.take_along_axis(log_probs, labels[..., np.newaxis], -1)[..., 0]


def numpy_loss(name, model, inputs, labels, weights):
    """The mean loss and the accuracy, from what the model gives."""
    given = model(inputs).numpy().astype(np.float64)
    if name == "span":
        given = np.where(inputs["padding_mask"][..., np.newaxis], given, -np.inf)
        given = given.transpose(0, 2, 1)
        weights = np.stack([weights, weights], 1)
    if name == "sentence":
        scores = given[:, 0] @ given[:, 1].T / 0.1
        same = (labels[:, np.newaxis] == labels) & ~np.eye(B, dtype=bool)
        scores[same] = -np.inf
        losses = -(np.diag(log_softmax(scores)) + np.diag(log_softmax(scores.T))) / 2
        right = scores.argmax(1) == np.arange(B)
    else:
        losses = -picked(log_softmax(given), labels)
        right = given.argmax(-1) == labels
    return (losses * weights).sum() / weights.sum(), (right * weights).sum() / weights.sum()


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_its_equation(name, rng):
    model = made(name)
    inputs, labels, weights = data_of(name, rng)
    model.compile()
    logs = model.evaluate(inputs, labels, sample_weight=weights, verbose=0, return_dict=True)
    loss, accuracy = numpy_loss(name, model, inputs, labels, weights)
    assert logs["loss"] == about(loss, ADDITIONS)
    if name == "masked":
        assert logs["perplexity"] == about(np.exp(loss), ADDITIONS)
    else:
        assert "perplexity" not in logs
        assert logs["accuracy"] == about(accuracy, ADDITIONS)


@pytest.mark.parametrize("name", HEADS)
def test_it_learns_and_comes_back_from_its_file(name, rng, tmp_path):
    model = made(name, dataclasses.replace(CONFIG, dropout=0.1))
    inputs, labels, weights = data_of(name, rng)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    history = model.fit(
        inputs, labels, sample_weight=weights, epochs=20, batch_size=B, verbose=0
    ).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is HEADS[name][0] and again.get_config() == model.get_config()
    np.testing.assert_array_equal(again(inputs), model(inputs))


@pytest.mark.parametrize("name", HEADS)
def test_what_stands_at_padding_changes_nothing(name, rng):
    model = made(name)
    inputs, labels, weights = data_of(name, rng)
    other = {**inputs, "token_ids": np.where(inputs["padding_mask"], inputs["token_ids"], 7)}
    if name == "masked":
        weights = weights * inputs["padding_mask"]
    arguments = (tf.constant(labels, tf.int32), tf.constant(weights, tf.float32))
    if name == "span":
        arguments = (arguments[0], tf.repeat(arguments[1][:, tf.newaxis], 2, 1))
    sums = [model.loss_sums(x, *arguments, training=False) for x in (inputs, other)]
    assert_rounded(*sums, ADDITIONS)


# Not of sentences: a micro-batch has its own negatives.
@pytest.mark.parametrize("name", ["sequence", "masked"])
def test_micro_batches_and_rematerialization_give_the_same_gradients(name, rng):
    inputs, labels, weights = data_of(name, rng)
    trained = []
    for options, accumulation in (({}, 1), ({"rematerialize": True}, 3)):
        model = made(name, **options)
        model.gradient_accumulation = accumulation
        model.compile(optimizer=keras.optimizers.SGD(0.5))
        model.fit(inputs, labels, sample_weight=weights, batch_size=B, verbose=0, shuffle=False)
        trained.append([np.array(weight) for weight in model.weights])
    for one, other in zip(*trained, strict=True):
        assert_rounded(one, other, ADDITIONS)


def test_the_masked_loss_has_the_gradients_of_the_full_logits(rng):
    inputs, labels, weights = data_of("masked", rng)
    model = made("masked")
    y, w = tf.constant(labels, tf.int32), tf.constant(weights, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        chosen, total = model.loss_sums(inputs, y, w, training=True)
        logits = model(inputs)
        full = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits) * w)
    assert float(total) == about(weights.sum(), B * T)
    variables = [v.value for v in model.trainable_variables]
    for one, other in zip(
        tape.gradient(chosen, variables), tape.gradient(full, variables), strict=True
    ):
        one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
        assert_rounded(one, other, ADDITIONS)


def test_rows_of_weight_0_are_nobodys_negatives(rng):
    model = made("sentence")
    inputs, labels, weights = data_of("sentence", rng)
    weights[2] = 0
    kept = np.arange(B) != 2
    some = {name: value[kept] for name, value in inputs.items()}
    all_rows = model.loss_sums(inputs, tf.constant(labels), tf.constant(weights), training=False)
    rows = model.loss_sums(
        some, tf.constant(labels[kept]), tf.constant(weights[kept]), training=False
    )
    assert_rounded(all_rows, rows, ADDITIONS)


def test_texts_packed_in_a_row_do_not_see_one_another(rng):
    encoder = Encoder(CONFIG, seed=1)
    token_ids = rng.integers(0, V, (1, 12)).astype(np.int32)
    segments = np.repeat([1, 2, 3], [5, 3, 4])[np.newaxis]
    packed = encoder({"token_ids": token_ids, "segment_ids": segments}).numpy()[0]
    alone = [
        encoder(token_ids[:, begin:end]).numpy()[0] for begin, end in ((0, 5), (5, 8), (8, 12))
    ]
    assert_rounded(packed, np.concatenate(alone), ADDITIONS)


def test_attention_weights_are_a_distribution_over_the_tokens(rng):
    inputs, *_ = data_of("sequence", rng)
    weights = made("sequence").attention_weights(inputs)
    assert len(weights) == 2 and weights[0].shape == (B, 3, T, T)
    unseen = ~inputs["padding_mask"]
    for layer in weights:
        assert_rounded(np.sum(layer, -1), 1, T)
        assert np.abs(np.array(layer).transpose(0, 3, 1, 2)[unseen]).max() == 0


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16", "int8_float32"])
def test_a_copy_of_another_dtype_is_near(name, dtype, rng):
    model = made(name)
    inputs, *_ = data_of(name, rng)
    given, expected = model.with_dtype(dtype)(inputs).numpy(), model(inputs).numpy()
    assert given.dtype == np.float32
    assert np.abs(given - expected).mean() < 0.05 * np.abs(expected).mean() + 0.01


def test_a_given_encoder_becomes_the_heads_own(rng):
    encoder = Encoder(CONFIG, seed=4)
    classifier = SequenceClassifier(encoder, num_labels=2)
    assert classifier.encoder is encoder and encoder.pooler is not None
    assert any("pooler" in weight.path for weight in classifier.weights)
    tagger = TokenClassifier(encoder, num_labels=2)
    assert encoder.pooler is None
    assert not any("pooler" in weight.path for weight in tagger.weights)
    copied = SpanClassifier(encoder, dtype="bfloat16")
    assert copied.encoder is not encoder and copied.encoder.compute_dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"a head needs an Encoder.*received str"):
        SpanClassifier("bert")


def test_what_cannot_be_is_refused():
    encoder = Encoder(CONFIG, seed=None)
    with pytest.raises(ValueError, match="at most max_sequence_length=16 tokens; received 17"):
        encoder(np.zeros((1, 17), np.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_sequence_length=16"):
        tf.function(encoder, input_signature=[tf.TensorSpec([None, None], tf.int32)])(
            np.zeros((1, 17), np.int32)
        )
    with pytest.raises(ValueError, match="an Encoder without a head has no loss"):
        encoder.compile()
        encoder.fit(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.int32), verbose=0)
    with pytest.raises(ValueError, match="num_labels must be at least 2; received 1"):
        SequenceClassifier(CONFIG, num_labels=1)
    with pytest.raises(ValueError, match=r"2 \(num_labels\) different names; received \['a'"):
        TokenClassifier(CONFIG, num_labels=2, label_names=["a", "a"])
    with pytest.raises(ValueError, match="temperature must be positive and finite; received 0"):
        SentenceEncoder(CONFIG, temperature=0)
    with pytest.raises(ConfigError, match=r"divisible by num_heads \(5\); received 12"):
        dataclasses.replace(CONFIG, num_heads=5)
    with pytest.raises(ConfigError, match="num_token_types must be at least 1; received 0"):
        dataclasses.replace(CONFIG, num_token_types=0)


def test_an_encoder_learns_with_a_loss_that_is_given(rng):
    encoder = Encoder(CONFIG, pooler=True, seed=1)
    encoder.compile(optimizer="adam", loss="mse")
    x, y = rng.integers(0, V, (B, T)).astype(np.int32), rng.normal(size=(B, T, E))
    losses = encoder.fit(x, y, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
