"""Encoder-decoders: the loss against NumPy, training, decoding, sizes."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import about, additions_of, assert_rounded
from tfllm.config import ConfigError
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes import size
from tfllm.models.sizes.encoder_decoders import ENCODER_DECODER_SIZES

B, S, T, V = 4, 9, 7, 41
TRANSFORMER = EncoderDecoderConfig(
    vocab_size=V,
    embedding_dim=12,
    num_layers=2,
    num_heads=2,
    num_decoder_layers=1,
    feed_forward_dim=20,
    max_sequence_length=16,
    dropout=0.0,
)
T5 = dataclasses.replace(
    size("t5-v1.1-small"),
    vocab_size=V,
    embedding_dim=10,
    num_layers=1,
    num_decoder_layers=2,
    num_heads=3,
    head_dim=4,
    feed_forward_dim=20,
    num_position_buckets=8,
    max_position_distance=9,
    dropout=0.0,
)
CONFIGS = {
    "transformer": TRANSFORMER,
    "t5": T5,
    "biased": dataclasses.replace(TRANSFORMER, output_bias=True),
}

ADDITIONS = 2 * additions_of(T5, S) + V
"""on the longest way through an encoder and a decoder, to a loss"""


def made(name, **options):
    config = dataclasses.replace(CONFIGS[name], **options.pop("config", {}))
    model = EncoderDecoder(config, seed=1, **options)
    if model.output_bias is not None:
        model.output_bias.assign(tf.random.stateless_normal([1, V], [1, 2]))
    return model


def data_of(rng):
    """Inputs, labels and weights, with padding and uneven weights."""
    lengths = np.array([S, 2, 5, 1])
    labels = rng.integers(0, V, (B, T))
    inputs = {
        "source_ids": rng.integers(0, V, (B, S)).astype(np.int32),
        "source_mask": np.arange(S) < lengths[:, np.newaxis],
        "token_ids": np.concatenate([np.zeros((B, 1)), labels[:, :-1]], 1).astype(np.int32),
    }
    weights = rng.uniform(0.5, 2, (B, T)) * (np.arange(T) < np.array([[7], [3], [1], [5]]))
    return inputs, labels, weights.astype(np.float32)


def mean_loss(logits, labels, weights, smoothing=0.0):
    logits = logits.astype(np.float64)
    log_probs = logits - logits.max(-1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    target = np.full((B, T, V), smoothing / V)
    np.put_along_axis(target, labels[..., np.newaxis], 1 - smoothing + smoothing / V, -1)
    return -((target * log_probs).sum(-1) * weights).sum() / weights.sum()


@pytest.mark.parametrize(
    ("name", "metrics"), [*((name, []) for name in CONFIGS), ("biased", ["accuracy"])]
)
def test_the_loss_is_its_equation(name, metrics, rng):
    """With labels smoothed in training alone, in chunks of the logits or with all of them."""
    inputs, labels, weights = data_of(rng)
    model = made(name, label_smoothing=0.2)
    model.compile(keras.optimizers.SGD(0.0), weighted_metrics=metrics)
    logits = model(inputs).numpy()
    options = {"sample_weight": weights, "verbose": 0}
    trained = model.fit(inputs, labels, epochs=1, **options).history["loss"][0]
    assert trained == about(mean_loss(logits, labels, weights, 0.2), ADDITIONS)
    logs = model.evaluate(inputs, labels, return_dict=True, **options)
    expected = mean_loss(logits, labels, weights)
    assert logs["loss"] == about(expected, ADDITIONS)
    assert logs["perplexity"] == about(np.exp(expected), ADDITIONS)


def updates(model, inputs, labels, weights):
    """What one step of plain gradient descent does to each weight."""
    before = [w.numpy() for w in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0))
    model.train_on_batch(inputs, labels, weights)
    return {
        w.path.partition("/")[2]: b - w.numpy()
        for w, b in zip(model.trainable_variables, before, strict=True)
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_the_gradient_is_that_of_the_whole_logits(name, rng):
    """Also that of recomputed blocks, relative positions included, and in parts of a batch."""
    inputs, labels, weights = data_of(rng)
    model = made(name, label_smoothing=0.2)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        log_probs = tf.nn.log_softmax(model(inputs, training=True))
        target = 0.8 * tf.one_hot(labels, V) + 0.2 / V
        losses = -tf.reduce_sum(target * log_probs, -1)
        loss = tf.reduce_sum(losses * weights) / weights.sum()
    expected = tape.gradient(loss, [v.value for v in variables])
    expected = [tf.convert_to_tensor(g).numpy() for g in expected]
    for options in ({}, {"rematerialize": True}):
        given = updates(made(name, label_smoothing=0.2, **options), inputs, labels, weights)
        for (path, update), theirs in zip(given.items(), expected, strict=True):
            assert np.abs(theirs).max() > 1e-5, path
            assert_rounded(update, theirs, ADDITIONS, message=path)
    assert any("relative_positions" in path for path in given) == (name == "t5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_recomputed_blocks_drop_the_same_elements(name, rng):
    inputs, labels, weights = data_of(rng)
    given = [
        updates(made(name, config={"dropout": 0.3}, rematerialize=r), inputs, labels, weights)
        for r in (False, True)
    ]
    plain = updates(made(name), inputs, labels, weights)
    for path, update in given[0].items():
        assert_rounded(update, given[1][path], ADDITIONS, message=path)
    assert any(np.abs(update - plain[path]).max() > 1e-3 for path, update in given[0].items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("transformer", "mixed_bfloat16"), ("t5", "float32")])
def test_it_learns_to_copy(name, dtype):
    rng = np.random.default_rng(0)
    words = rng.integers(2, 12, (64, 4)).astype(np.int32)
    starts = np.zeros((64, 1), np.int32)
    inputs = {"source_ids": words, "token_ids": np.concatenate([starts, words[:, :-1]], 1)}
    model = made(name, dtype=dtype, config={"embedding_dim": 24, "head_dim": 12, "num_heads": 2})
    model.compile(keras.optimizers.Adam(1e-2))
    first = model.evaluate(inputs, words, verbose=0, return_dict=True)["loss"]
    model.fit(inputs, words, batch_size=32, epochs=40, verbose=0)
    last = model.evaluate(inputs, words, verbose=0, return_dict=True)["loss"]
    assert first > 3 and last < 0.5


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_states_begin_at_a_deviation_of_about_one(name, rng):
    """So that training from scratch works: neither logits nor attention begin saturated."""
    config = {"embedding_dim": 64, "head_dim": 16, "num_heads": 4, "feed_forward_dim": 256}
    model = made(name, config={**config, "num_layers": 3, "num_decoder_layers": 3})
    inputs, _, _ = data_of(rng)
    assert 0.3 < np.std(model(inputs).numpy()) < 3
    weights = model.attention_weights(inputs)
    assert np.max(weights["encoder"][0].numpy()[0]) < 0.9


@pytest.mark.parametrize("name", ["transformer", "t5"])
def test_attention_weights_are_of_all_attentions_and_hide_what_is_hidden(name, rng):
    inputs, _, _ = data_of(rng)
    model = made(name)
    weights = model.attention_weights(inputs)
    config = model.config
    shapes = {"encoder": (S, S), "decoder": (T, T), "cross": (T, S)}
    for key, shape in shapes.items():
        number = config.num_layers if key == "encoder" else config.num_decoder_layers
        assert [w.shape for w in weights[key]] == [(B, config.num_heads, *shape)] * number
        assert_rounded(np.sum(weights[key][-1], -1), 1, S)
    assert np.triu(weights["decoder"][0][0, 0].numpy(), 1).max() == 0
    hidden = ~inputs["source_mask"][:, np.newaxis, np.newaxis]
    assert (weights["cross"][0].numpy() * hidden).max() == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_saved_and_copied_with_its_weights(name, tmp_path, rng):
    inputs, _, _ = data_of(rng)
    model = made(name, label_smoothing=0.1)
    expected = model(inputs).numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.config, loaded.label_smoothing) == (model.config, 0.1)
    np.testing.assert_array_equal(loaded(inputs), expected)
    near = model.with_dtype("bfloat16")(inputs).numpy()
    assert np.corrcoef(near.ravel(), expected.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("what", ["source_ids", "token_ids"])
def test_what_is_too_long_is_refused(what, rng):
    inputs, _, _ = data_of(rng)
    del inputs["source_mask"]
    inputs[what] = np.ones((B, 17), np.int32)
    with pytest.raises(ValueError, match="at most max_sequence_length=16 tokens; received 17"):
        made("transformer")(inputs)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embedding_dim", 13, "divisible by num_heads"),
        ("num_decoder_layers", 0, "num_decoder_layers must be at least 1"),
        ("decoder_start_token_id", V, r"decoder_start_token_id must lie in \[0, 41\)"),
        ("never_generated", (1, -1), "never_generated"),
        ("attention_dropout", 1.0, "attention_dropout"),
        ("num_position_buckets", 6, "multiple of 4"),
        ("max_position_distance", 16, "more than half of num_position_buckets"),
    ],
)
def test_settings_that_do_not_fit_are_refused(field, value, message):
    values = {"vocab_size": V, "embedding_dim": 12, "num_layers": 1, "num_heads": 2}
    values |= {"positions": "relative", field: value}
    with pytest.raises(ConfigError, match=message):
        EncoderDecoderConfig(**values)


def test_label_smoothing_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\); received 1"):
        made("transformer", label_smoothing=1)


PUBLISHED = {
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
}


@pytest.mark.parametrize("name", ENCODER_DECODER_SIZES)
def test_a_size_has_the_published_number_of_parameters(name):
    config = size(name)
    number = num_parameters(config)
    assert PUBLISHED.get(name, number) == number
    small = dataclasses.replace(config, num_layers=2, num_decoder_layers=3)
    assert EncoderDecoder.abstract(small).count_params() == num_parameters(small)


def test_the_first_transformers_have_about_as_many_as_their_paper_says():
    """65 and 213 million in its table 3. Its vocabulary has "about 37000 tokens": 3,000 more or
    fewer are 1.5 million of the smaller model, and "65" may stand for half a million less."""
    for name, published in (("transformer-base", 65e6), ("transformer-big", 213e6)):
        assert num_parameters(size(name)) == pytest.approx(published, rel=2e6 / 65e6)


def test_an_unknown_size_is_named():
    with pytest.raises(ConfigError, match="did you mean 't5-base'"):
        size("t5-bas")
