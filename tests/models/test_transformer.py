"""`Transformer`: four sizes, then plain compile and fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm


def a_pattern(rows=64, time=12, period=5):
    start = np.arange(rows) % period
    row = (start[:, None] + np.arange(time + 1)) % period
    return row[:, :-1].astype("int32"), row[:, 1:].astype("int32")


@pytest.fixture
def model():
    return tfllm.Transformer(vocab_size=5, embedding_dim=16, num_heads=2, num_layers=2)


def test_ids_to_logits(model):
    assert isinstance(model, keras.Model)
    logits = model(np.array([[0, 1, 2], [3, 4, 0]]))
    assert logits.shape == (2, 3, 5)
    assert logits.dtype == tf.float32
    assert model.predict(np.zeros((3, 4), "int32"), verbose=0).shape == (3, 4, 5)


def test_it_learns_with_plain_compile_and_fit(model):
    x, y = a_pattern()
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.learning_rate = 0.01
    history = model.fit(x, y, batch_size=16, epochs=12, verbose=0).history
    assert history["accuracy"][-1] > 0.99
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert set(history) == {"loss", "accuracy"}


def test_it_learns_without_a_loss_being_named(model):
    x, y = a_pattern()
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    history = model.fit(x, y, batch_size=16, epochs=12, verbose=0).history
    assert history["perplexity"][-1] < 1.2
    assert model.evaluate(x, y, verbose=0, return_dict=True)["perplexity"] < 1.2


def test_it_lives_inside_a_functional_model(model):
    token_ids = keras.Input((6,), dtype="int32")
    outputs = keras.layers.Dense(2)(model(token_ids))
    outer = keras.Model(token_ids, outputs)
    outer.compile("adam", "mse")
    outer.fit(np.zeros((4, 6), "int32"), np.zeros((4, 6, 2)), verbose=0)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"embedding_dim must be divisible by num_heads \(3\)"):
        tfllm.Transformer(5, 16, 3, 1)
    with pytest.raises(ValueError, match="vocab_size must be at least 1; received 0"):
        tfllm.Transformer(0, 16, 2, 1)
