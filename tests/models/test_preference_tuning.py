"""Preference tuning compared with the paper's equation, computed with all logits at once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.models.preference_run import CONFIG, TIME, VOCAB, pairs, tuned
from tests.rounding import about, additions_of, assert_rounded, rounding
from tfllm.config import LoraConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.preference_tuning import PreferenceTuning

ROOT = Path(__file__).parents[2]
ADDITIONS = 6 * 3 * (additions_of(CONFIG, TIME) + VOCAB + 2 * TIME)
"""six steps, each a pass forward and twice as much backward"""


def replies(model, x, y, weights):
    """Equation 7 of the paper needs these: log-probabilities of whole replies, one at a time."""
    found = []
    for pair in range(len(y)):
        for side in range(2):
            real = int(x["segment_ids"][pair, side].sum())
            logits = model(x["token_ids"][pair, side : side + 1, :real])[0]
            log_probs = tf.math.log_softmax(tf.cast(logits, tf.float64))
            picked = tf.gather(log_probs, y[pair, side, :real], batch_dims=1)
            found.append(tf.reduce_sum(picked * weights[pair, side, :real]))
    return tf.reshape(tf.stack(found), [-1, 2])


def equation(model, x, y, weights, beta):
    """Losses and margins of the pairs that count."""
    counted = weights.any((1, 2))
    gains = replies(model, x, y, weights) - x["reference"].astype("float64")
    margins = tf.boolean_mask(beta * (gains[:, 0] - gains[:, 1]), counted)
    return -tf.math.log(tf.sigmoid(margins)), margins


def by_hand(beta=0.3):
    """The run of `tuned` by the paper's equation, an eager tape and plain gradient descent."""
    model = CausalLM(CONFIG, seed=3)
    x, y, weights = pairs()
    history = {"loss": [], "accuracy": [], "margin": []}
    for _ in range(2):
        losses, margins = [], []
        for begin in range(0, len(y), 4):
            rows = slice(begin, begin + 4)
            batch = {name: value[rows] for name, value in x.items()}
            with tf.GradientTape() as tape:
                loss, margin = equation(model, batch, y[rows], weights[rows], beta)
                mean = tf.reduce_mean(loss)
            variables = [v.value for v in model.trainable_variables]
            gradients = [tf.convert_to_tensor(g) for g in tape.gradient(mean, variables)]
            gradients, _ = tf.clip_by_global_norm(gradients, 2.0)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_sub(0.5 * gradient)
            losses.append(loss)
            margins.append(margin)
        losses, margins = tf.concat(losses, 0), tf.concat(margins, 0)
        history["loss"].append(float(tf.reduce_mean(losses)))
        history["margin"].append(float(tf.reduce_mean(margins)))
        history["accuracy"].append(float(np.mean(margins > 0)))
    return model, history


@pytest.fixture(scope="module")
def reference():
    return by_hand()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_tuning_is_the_papers_equation(accumulation, reference):
    model, history = tuned(accumulation)
    expected, expected_history = reference
    for name, values in expected_history.items():
        assert_rounded(history[name], values, ADDITIONS, message=name)
    for a, b in zip(model.trainable_variables, expected.trainable_variables, strict=True):
        assert_rounded(a, b, ADDITIONS, message=a.path)
    assert "perplexity" not in history, "the loss is no cross-entropy"
    assert history["val_loss"][-1] < history["val_loss"][0]


@pytest.mark.slow
def test_two_replicas_tune_as_one(reference, tmp_path):
    out = tmp_path / "two.npz"
    command = [sys.executable, "-m", "tests.models.preference_run", "2", str(out)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    line = next(s for s in result.stdout.splitlines() if s.startswith("HISTORY"))
    history = json.loads(line.removeprefix("HISTORY"))
    expected, expected_history = reference
    for name, values in expected_history.items():
        assert_rounded(history[name], values, ADDITIONS, message=name)
    with np.load(out) as arrays:
        for a, b in zip(arrays.values(), expected.trainable_variables, strict=True):
            assert_rounded(a, b, ADDITIONS, message=b.path)


def test_at_the_reference_nothing_is_preferred():
    model = PreferenceTuning(CausalLM(CONFIG, seed=1))
    x, y, weights = pairs()
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
    found = model.reference_log_probs(data, len(y))
    assert_rounded(found, replies(model.model, x, y, weights), ADDITIONS)
    x["reference"] = found
    loss, counted, right, margin = model.loss_sums(x, y, weights, training=False)
    assert float(counted) == len(y) - 1
    assert float(loss) == about(np.log(2) * (len(y) - 1), ADDITIONS)
    assert float(right) == 0
    assert abs(float(margin)) <= rounding(ADDITIONS, found)


def test_with_an_adapter_only_the_adapter_is_tuned():
    base = CausalLM(CONFIG, seed=1)
    before = [v.numpy() for v in base.weights]
    base.add_adapter(LoraConfig(rank=2, alpha=4))
    model = PreferenceTuning(base, beta=0.5)
    model.compile(tf.keras.optimizers.SGD(1.0))
    x, y, weights = pairs()
    x["reference"] = replies(base, x, y, weights).numpy().astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(5)
    history = model.fit(data, epochs=6, shuffle=False, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for variable, value in zip(base.own_weights, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


@pytest.mark.parametrize("beta", [0.0, -1.0, float("inf"), float("nan")])
def test_beta_is_a_positive_number(beta):
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        PreferenceTuning(CausalLM(CONFIG), beta=beta)


def test_what_is_no_causal_lm_is_refused():
    with pytest.raises(ValueError, match=r"must be a tfllm\.CausalLM; received Dense"):
        PreferenceTuning(tf.keras.layers.Dense(1))
