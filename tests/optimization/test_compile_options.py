"""Losses, metrics and functional models defined by users."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.optimization import reference
from tests.optimization.tiny_training import (
    LEARNING_RATE,
    adamw,
    compiled,
    expected,
    token_mean,
)
from tests.rounding import about, additions_of, assert_rounded
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.training_step import TrainingStep


def test_metrics_of_ones_own(tiny_config, rng):
    batches = reference.make_batches(rng, num=5, last_rows=3)
    model = compiled(
        tiny_config,
        2,
        learning_rate=0.0,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    )
    data = reference.dataset(batches)
    history = model.fit(data, epochs=2, validation_data=data, shuffle=False, verbose=0).history
    names = ("loss", "accuracy", "weighted")
    assert set(history) == {*names, *(f"val_{name}" for name in names)}
    other = CausalLM(tiny_config, seed=3)
    hits = [np.argmax(other(x), -1) == y for x, y, _ in batches]
    weights = [w for _, _, w in batches]
    accuracy = np.concatenate([h.ravel() for h in hits]).mean()
    weighted = sum((h * w).sum() for h, w in zip(hits, weights, strict=True))
    weighted /= sum(w.sum() for w in weights)
    for prefix in ("", "val_"):
        # Keras divides two sums of whole numbers and quarters, which are exact, in float32.
        assert_rounded(history[f"{prefix}accuracy"], [accuracy] * 2, 1)
        assert_rounded(history[f"{prefix}weighted"], [weighted] * 2, 1)


def test_metrics_with_our_own_loss_do_not_change_the_training(tiny_config, rng):
    batches = reference.make_batches(rng, num=5)
    model = compiled(tiny_config, 2, metrics=["accuracy"], jit_compile=True)
    history = model.fit(reference.dataset(batches), shuffle=False, verbose=0).history
    other = expected(tiny_config, batches)
    assert set(history) == {"loss", "perplexity", "accuracy"}
    other.assert_weights_of(model)


def test_a_loss_of_keras_gives_the_same_training(tiny_config, rng):
    batches = reference.make_batches(rng, num=6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(tiny_config, 2, loss=loss)
    history = model.fit(reference.dataset(batches), shuffle=False, verbose=0).history
    other = expected(tiny_config, batches)
    assert history == {"loss": [about(token_mean(other.losses, batches), other.additions)]}
    other.assert_weights_of(model)


def test_ignored_classes_count_for_nothing(tiny_config, rng):
    ((x, y, _),) = reference.make_batches(rng, num=1, weights="one")
    y[:, ::2] = 7
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=7)
    model = compiled(tiny_config, loss=loss)
    result = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)).numpy()
    assert result == about(losses[y != 7].mean(), additions_of(tiny_config, 8) + y.size)


def test_several_losses_are_refused(tiny_config, rng):
    model = compiled(tiny_config, loss=["mse"])
    with pytest.raises(ValueError, match="a single loss for the model's one output"):
        model.fit(reference.dataset(reference.make_batches(rng, num=1)), shuffle=False, verbose=0)


def functional_model(**options):
    token_ids = keras.Input((8,), dtype="int32")
    normal = [keras.initializers.RandomNormal(seed=i) for i in range(3)]
    h = keras.layers.Embedding(61, 16, embeddings_initializer=normal[0])(token_ids)
    h = keras.layers.Dense(16, activation="tanh", kernel_initializer=normal[1], **options)(h)
    logits = keras.layers.Dense(61, kernel_initializer=normal[2])(h)
    return TrainingStep(inputs=token_ids, outputs=logits)


@pytest.mark.parametrize(
    ("accumulation", "jit_compile"), [(1, False), (4, False), (1, True), (4, True)]
)
def test_regularizers_count_once(accumulation, jit_compile, rng):
    batches = reference.make_batches(rng, num=6)
    model = functional_model(kernel_regularizer=keras.regularizers.L2(0.5))
    model.gradient_accumulation = accumulation
    model.compile(adamw(global_clipnorm=0.5), jit_compile=jit_compile)
    history = model.fit(reference.dataset(batches), shuffle=False, verbose=0).history
    other = functional_model()
    trained = reference.train(
        other,
        batches,
        reference.NumpyAdamW(LEARNING_RATE),
        clip_norm=0.5,
        extra_loss=lambda m: 0.5 * tf.reduce_sum(tf.square(m.layers[2].kernel.value)),
        additions=16 + 16 + 61 + 16 * 16,
    )
    trained.assert_weights_of(model)
    assert history["loss"][0] == about(token_mean(trained.losses, batches), trained.additions)
    assert np.log(history["perplexity"][0]) < history["loss"][0] - 0.01  # the loss alone


def test_activity_losses_are_not_carried_over(rng):
    model = functional_model(activity_regularizer=keras.regularizers.L2(0.5))
    model.compile(adamw())
    data = reference.dataset(reference.make_batches(rng, num=3))
    history = model.fit(data, epochs=2, validation_data=data, shuffle=False, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))


def test_a_functional_model_leaves_the_other_models_alone(tiny_config, rng, tmp_path):
    model = functional_model()
    assert isinstance(model, TrainingStep)
    assert isinstance(CausalLM(tiny_config), TrainingStep)

    @keras.saving.register_keras_serializable("tests")
    class Mine(TrainingStep):
        pass

    ((x, y, w),) = reference.make_batches(rng, num=1)
    for m in (model, Mine(inputs=model.input, outputs=model.output)):
        m.compile(adamw())
        m.fit(reference.dataset([(x, y, w)]), shuffle=False, verbose=0)
        m.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert type(loaded) is type(m)
        np.testing.assert_array_equal(loaded(x), m(x))
    assert CausalLM(tiny_config)(x).shape == (4, 8, 61)


def test_any_loss_of_keras_fits_a_model_that_is_no_language_model(rng):
    x = rng.normal(size=(12, 3)).astype("float32")
    y = rng.normal(size=(12, 1)).astype("float32")
    results = []
    for model_type in (keras.Model, TrainingStep):
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(1, kernel_initializer="ones")(inputs)
        model = model_type(inputs=inputs, outputs=outputs)
        model.compile(keras.optimizers.SGD(0.1), loss="mse", metrics=["mae"])
        history = model.fit(x, y, batch_size=12, epochs=3, shuffle=False, verbose=0).history
        results.append((history["loss"], history["mae"], model.get_weights()[0]))
    for stock, ours in zip(*results, strict=True):
        assert_rounded(ours, stock, 3 * 3 * (3 + 12))  # three steps there and back, then the update


def test_weights_of_another_shape_are_refused():
    inputs = keras.Input((3,))
    model = TrainingStep(inputs=inputs, outputs=keras.layers.Dense(2)(inputs))
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="weights must have the shape of the losses"):
        model.fit(
            np.ones((4, 3)),
            np.ones((4, 2)),
            sample_weight=np.ones((4, 2)),
            shuffle=False,
            verbose=0,
        )
