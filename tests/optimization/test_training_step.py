"""`fit` compared with an independent eager loop, in every setting that changes the step."""

import dataclasses

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
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.schedules import WarmupSchedule


@pytest.fixture
def config(tiny_config):
    return tiny_config


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_fit_equals_an_independent_loop(accumulation, config, rng):
    batches = reference.make_batches(rng)
    model = compiled(config, accumulation)
    before = CausalLM(config, seed=3)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches)
    assert reference.largest_difference(model, before) > 0.01
    other.assert_weights_of(model)


def test_learned_positions_layer_norm_and_biases_too(rng):
    config = ModelConfig(
        vocab_size=61,
        embedding_dim=16,
        num_layers=1,
        num_heads=2,
        positions="learned",
        norm="layer",
        gated=False,
        activation="gelu_tanh",
        use_bias=True,
        tied_embeddings=False,
        max_sequence_length=16,
    )
    batches = reference.make_batches(rng, num=8)
    model = compiled(config)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches)
    other.assert_weights_of(model)
    # A key's bias has no gradient but rounding, which AdamW makes whole steps of; others have one.
    of_keys, others = [], []
    for weight, bound in zip(model.trainable_variables, other.bounds, strict=True):
        of_bias = weight.path.endswith("query_key_value/bias")
        of_keys += [bound[16:32]] if of_bias else []
        others += [np.delete(bound, slice(16, 32))] if of_bias else [bound.ravel()]
    assert np.min(of_keys) > LEARNING_RATE > 10 * np.median(np.concatenate(others))


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_an_uneven_last_batch_counts_by_its_tokens(accumulation, config, rng):
    batches = reference.make_batches(rng, num=6, last_rows=3)
    model = compiled(config, accumulation)
    history = model.fit(reference.dataset(batches), shuffle=False, verbose=0).history
    other = expected(config, batches)
    other.assert_weights_of(model)
    mean = token_mean(other.losses, batches)
    assert history["loss"][0] == about(mean, other.additions)
    assert history["perplexity"][0] == about(np.exp(mean), other.additions)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_xla_changes_nothing(accumulation, config, rng):
    batches = reference.make_batches(rng, num=6)
    model = compiled(config, accumulation, jit_compile=True)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches)
    other.assert_weights_of(model)


def test_steps_per_execution_changes_nothing(config, rng):
    batches = reference.make_batches(rng, num=7)  # 5 + 2
    model = compiled(config, steps_per_execution=5)
    history = model.fit(reference.dataset(batches), shuffle=False, verbose=0).history
    other = expected(config, batches)
    other.assert_weights_of(model)
    assert int(model.optimizer.iterations) == 7
    assert history["loss"][0] == about(token_mean(other.losses, batches), other.additions)


def test_eager_mode_changes_nothing(config, rng):
    batches = reference.make_batches(rng, num=3)
    model = compiled(config, 2, run_eagerly=True)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches)
    other.assert_weights_of(model)


def test_training_on_arrays_and_without_weights(config, rng):
    batches = reference.make_batches(rng, num=3, weights="one")
    x, y, _ = (np.concatenate(t) for t in zip(*batches, strict=True))
    model = compiled(config)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    other = expected(config, batches)
    other.assert_weights_of(model)


def test_a_weight_for_each_row_is_one_for_each_of_its_tokens(config, rng):
    batches = reference.make_batches(rng, num=4, weights="one")
    by_row = [(x, y, np.array([1, 0.5, 0, 2], "float32")) for x, y, _ in batches]
    by_token = [(x, y, np.repeat(w[:, None], 8, 1)) for x, y, w in by_row]
    model = compiled(config, 2)
    model.fit(reference.dataset(by_row), shuffle=False, verbose=0)
    other = expected(config, by_token)
    other.assert_weights_of(model)


def test_weights_that_add_up_to_less_than_a_token_are_divided_by(config, rng):
    ((x, y, w),) = reference.make_batches(rng, num=1)
    w = w * np.float32(1e-3)
    model = CausalLM(config, seed=3)
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(reference.dataset([(x, y, w)]), shuffle=False, verbose=0)
    other = CausalLM(config, seed=3)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, other(x))
        loss = tf.reduce_sum(losses * w) / tf.reduce_sum(w)
    variables = [v.value for v in other.trainable_variables]
    for v, g in zip(variables, tape.gradient(loss, variables), strict=True):
        v.assign_sub(tf.convert_to_tensor(g))
    for mine, theirs in zip(model.trainable_variables, variables, strict=True):
        assert_rounded(mine, theirs, 2 * additions_of(config, 8) + y.size)


def test_a_batch_without_tokens_is_finite(config, rng):
    ((x, y, w),) = reference.make_batches(rng, num=1)
    model = compiled(config)
    history = model.fit(reference.dataset([(x, y, 0 * w)]), shuffle=False, verbose=0).history
    assert history["loss"] == [0.0]
    assert all(np.all(np.isfinite(v.numpy())) for v in model.variables)


def test_the_schedule_advances_once_an_update(config, rng):
    schedule = WarmupSchedule(LEARNING_RATE, total_steps=8, warmup_steps=3)
    batches = reference.make_batches(rng, num=8)
    model = compiled(config, 4, learning_rate=schedule)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches, learning_rate=lambda step: float(schedule(step)))
    assert int(model.optimizer.iterations) == 8
    other.assert_weights_of(model)


def test_evaluate_is_the_mean_over_all_tokens_and_changes_nothing(config, rng):
    batches = reference.make_batches(rng, num=5, last_rows=2)
    model = compiled(config)
    weights = [v.numpy() for v in model.trainable_variables]
    results = model.evaluate(reference.dataset(batches), verbose=0, return_dict=True)
    total = count = 0.0
    for x, y, w in batches:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
        total, count = total + float(tf.reduce_sum(losses * w)), count + w.sum()
    additions = additions_of(config, 8) + y.size
    assert results["loss"] == about(total / count, additions)
    assert results["perplexity"] == about(np.exp(total / count), additions)
    for before, after in zip(weights, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


def test_validation_runs_inside_fit(config, rng):
    model = compiled(config)
    data = reference.dataset(reference.make_batches(rng, num=3))
    history = model.fit(data, epochs=2, validation_data=data, shuffle=False, verbose=0).history
    assert set(history) == {"loss", "perplexity", "val_loss", "val_perplexity"}
    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == about(evaluated["loss"], additions_of(config, 8))


def test_train_on_batch_takes_each_batch_anew(config, rng):
    batches = reference.make_batches(rng, num=4)
    model = compiled(config)
    losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for batch in batches]
    other = expected(config, batches)
    assert_rounded(losses, other.losses, other.additions)
    other.assert_weights_of(model)
    evaluated = model.test_on_batch(*batches[1], return_dict=True)["loss"]
    data = reference.dataset(batches[1:2])
    again = model.evaluate(data, verbose=0, return_dict=True)["loss"]
    assert evaluated == about(again, other.additions)


def test_logits_are_not_computed_when_nobody_asks(config, rng, monkeypatch):
    model = compiled(config)
    monkeypatch.setattr(
        CausalLM, "logits", lambda *_: pytest.fail("the loss must not hold all logits")
    )
    model.fit(reference.dataset(reference.make_batches(rng, num=1)), shuffle=False, verbose=0)


def test_data_without_labels_are_refused(config):
    with pytest.raises(ValueError, match="received no labels"):
        compiled(config).fit(np.zeros((4, 8), "int32"), shuffle=False, verbose=0)


def test_a_frozen_layer_stays(config, rng):
    model = CausalLM(config, seed=3)
    model.blocks[0].trainable = False
    model.compile(adamw())
    frozen = [v.numpy() for v in model.blocks[0].weights]
    moving = [v.numpy() for v in model.blocks[1].weights]
    model.fit(reference.dataset(reference.make_batches(rng, num=2)), shuffle=False, verbose=0)
    for before, after in zip(frozen, model.blocks[0].weights, strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    for before, after in zip(moving, model.blocks[1].weights, strict=True):
        assert np.any(before != after.numpy())


def test_float16_skips_a_step_with_an_infinity_and_halves_the_scale(config, rng):
    batches = reference.make_batches(rng, num=2)
    model = CausalLM(config, seed=3, dtype="mixed_float16")
    model.compile(adamw(global_clipnorm=0.5))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.fit(reference.dataset(batches[:1]), shuffle=False, verbose=0)
    scale = float(model.optimizer.dynamic_scale)
    weights = [v.numpy() for v in model.trainable_variables]
    x, y, w = batches[1]
    model.fit(reference.dataset([(x, y, w * np.float32(1e30))]), shuffle=False, verbose=0)
    assert float(model.optimizer.dynamic_scale) == scale / 2
    assert int(model.optimizer.iterations) == 1
    for before, after in zip(weights, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())


def test_float16_trains_like_float32(config, rng):
    batches = reference.make_batches(rng, num=6)
    model = CausalLM(config, seed=3, dtype="mixed_float16")
    model.detailed_logs = True
    model.compile(adamw(global_clipnorm=0.5))
    logs = [model.train_on_batch(*batch, return_dict=True) for batch in batches]
    assert int(model.optimizer.iterations) == 6
    other = expected(config, batches)
    bounds = reference.precision_bounds(
        lambda: CausalLM(config, seed=3),
        lambda: reference.NumpyAdamW(LEARNING_RATE),
        batches,
        "float16",
        clip_norm=0.5,
    )
    bounds.assert_holds(model, logs, other)
    start = CausalLM(config, seed=3).trainable_variables
    for before, after, bound in zip(
        start, other.model.trainable_variables, bounds.weights, strict=True
    ):
        moved = np.abs(after.numpy() - before.numpy())
        assert np.median(bound) < 0.1 * np.median(moved), after.path  # else it would say little


def test_another_optimizer_gets_dense_gradients(config, rng):
    """Keras' own optimizers do not sum the repeated rows of a sparse gradient."""
    batches = reference.make_batches(rng, num=10)
    model = CausalLM(config, seed=3)
    options = dict(beta_2=0.95, epsilon=1e-8, global_clipnorm=0.5)
    optimizer = keras.optimizers.AdamW(LEARNING_RATE, 0.1, **options)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if len(v.shape) < 2]
    )
    model.compile(optimizer)
    model.fit(reference.dataset(batches), shuffle=False, verbose=0)
    other = expected(config, batches)
    other.assert_weights_of(model)


def test_dropout_is_a_function_of_seed_and_step(config, rng):
    config = dataclasses.replace(config, dropout=0.2)
    batches = reference.make_batches(rng, num=4)

    def trained(seed, parts, config=config):
        model = CausalLM(config, seed=seed)
        start = CausalLM(config, seed=0)
        for mine, theirs in zip(model.weights, start.weights, strict=True):
            mine.assign(theirs)
        model.gradient_accumulation = 2
        model.compile(adamw())
        for part in parts:
            model.fit(reference.dataset(part), shuffle=False, verbose=0)
        return model

    model = trained(0, [batches])
    resumed = trained(0, [batches[:1], batches[1:]])
    other = trained(1, [batches])
    without = trained(0, [batches], dataclasses.replace(config, dropout=0.0))
    assert reference.largest_difference(model, resumed) == 0
    assert reference.largest_difference(model, other) > 1e-3
    assert reference.largest_difference(model, without) > 1e-3
