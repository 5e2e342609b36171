"""An independent training loop: dense, eager, token-weighted, with AdamW in NumPy float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tests.rounding import (
    DEVIATIONS,
    SIDES,
    TRIALS,
    UNIT_ROUNDOFF,
    additions_of,
    assert_within,
    rounding,
)


class NumpyAdamW:
    """Loshchilov & Hutter's AdamW on a list of arrays; decay of matrices only.

    It also measures what rounding may do. AdamW divides each gradient by its own size, so the
    smaller one is, the more its rounding moves the weight: TRIALS copies of the two moments get
    gradients that are off by one standard deviation of `rounding`, of values as large as the
    tensor's largest. Errors of earlier steps' weights are left out: a gradient's change is as small
    as the weight's.
    """

    def __init__(self, learning_rate, weight_decay=0.1, beta_1=0.9, beta_2=0.95, epsilon=1e-8):
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.step, self.m, self.v = 0, None, None
        self.moments, self.moved = None, None
        self.random = np.random.default_rng(0)

    def update(self, weights, gradients, additions=1):
        """The new weights. `additions` are those of a gradient."""
        rate = self.learning_rate(self.step) if callable(self.learning_rate) else self.learning_rate
        self.step += 1
        if self.m is None:
            self.m = [np.zeros_like(w) for w in weights]
            self.v = [np.zeros_like(w) for w in weights]
            self.moments = [np.zeros((2, TRIALS, *w.shape)) for w in weights]
            self.moved = [np.zeros((TRIALS, *w.shape)) for w in weights]
        updated = []
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            self.m[i] = self.beta_1 * self.m[i] + (1 - self.beta_1) * g
            self.v[i] = self.beta_2 * self.v[i] + (1 - self.beta_2) * g**2
            if w.ndim >= 2:
                w = w - rate * self.weight_decay * w
            # Kingma & Ba, end of section 2: the form in which epsilon ("epsilon hat", as in
            # TensorFlow) is added before the bias correction.
            size = rate * np.sqrt(1 - self.beta_2**self.step) / (1 - self.beta_1**self.step)
            change = size * self.m[i] / (np.sqrt(self.v[i]) + self.epsilon)
            updated.append(w - change)
            deviation = rounding(additions, g) / (SIDES * DEVIATIONS)
            rounded = g + self.random.normal(size=self.moved[i].shape) * deviation
            m, v = self.moments[i]
            m[...] = self.beta_1 * m + (1 - self.beta_1) * rounded
            v[...] = self.beta_2 * v + (1 - self.beta_2) * rounded**2
            self.moved[i] += size * m / (np.sqrt(v) + self.epsilon) - change
        return updated

    def bounds(self, weights):
        """By how much each trained weight may be off: by its gradients, and by its own updates."""
        return [
            SIDES * DEVIATIONS * np.sqrt((moved**2).mean(0)) + rounding(3 * self.step, w)
            for moved, w in zip(self.moved, weights, strict=True)
        ]


@dataclass
class Trained:
    """A model after the independent loop."""

    model: Any
    losses: list[float]
    """of each step"""
    norms: list[float]
    """of each step's gradients, before they are clipped"""
    additions: int
    """on the longest way to a loss, and back to a gradient"""
    bounds: list[np.ndarray]
    """for each trainable weight"""

    def assert_weights_of(self, model):
        """That another model has the same, but for rounding."""
        mine, theirs = model.trainable_variables, self.model.trainable_variables
        for a, b, bound in zip(mine, theirs, self.bounds, strict=True):
            assert_within(a, b, bound, a.path)


def global_norm(gradients):
    return np.sqrt(sum((g**2).sum() for g in gradients))


def clipped(gradients, norm):
    return [g * min(1.0, norm / global_norm(gradients)) for g in gradients]


def train(model, batches, optimizer, *, clip_norm=None, extra_loss=None, additions=None):
    """Train `model` in place on batches (x, y, weights), by the token-mean loss.

    Args:
        additions: on the longest way to a loss; by default those of a CausalLM.
    """
    rows, time = batches[0][0].shape
    if additions is None:
        additions = additions_of(model.config, time)
    additions = 2 * additions + rows * time  # there, back, and over the tokens
    variables = [v.value for v in model.trainable_variables]
    losses, norms = [], []
    for x, y, w in batches:
        w = tf.constant(w, tf.float32)
        with tf.GradientTape() as tape:
            logits = tf.cast(model(x, training=True), tf.float32)
            token_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_sum(token_losses * w) / tf.reduce_sum(w)
            objective = loss if extra_loss is None else loss + extra_loss(model)
        gradients = [
            np.asarray(tf.convert_to_tensor(g), np.float64)
            for g in tape.gradient(objective, variables, unconnected_gradients="zero")
        ]
        norms.append(global_norm(gradients))
        if clip_norm is not None:
            gradients = clipped(gradients, clip_norm)
        weights = [v.numpy().astype(np.float64) for v in variables]
        weights = optimizer.update(weights, gradients, additions)
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight.astype(np.float32))
        losses.append(float(objective))
    bounds = optimizer.bounds([v.numpy() for v in variables])
    return Trained(model, losses, norms, additions, bounds)


@dataclass
class PrecisionBounds:
    """DEVIATIONS standard deviations, as `precision_bounds` gives them."""

    losses: np.ndarray
    """of each step"""
    norms: np.ndarray
    weights: list[np.ndarray]

    def assert_holds(self, model, logs, other):
        """For a model that was trained and the detailed logs of its steps, and what it should be:
        what `train` gives, in float32."""
        assert_within([log["loss"] for log in logs], other.losses, self.losses)
        assert_within([log["gradient_norm"] for log in logs], other.norms, self.norms)
        mine, theirs = model.trainable_variables, other.model.trainable_variables
        for a, b, bound in zip(mine, theirs, self.weights, strict=True):
            assert_within(a, b, bound, a.path)


def loss_and_gradients_of(model, extra_loss=None):
    """A function of a step and its batch: the loss, and the gradients of the trained weights."""
    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def loss_and_gradients(x, y, w):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
            loss = tf.reduce_sum(losses * w) / tf.reduce_sum(w)
            loss += 0.0 if extra_loss is None else extra_loss(model)
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    return lambda step, batch: loss_and_gradients(*map(tf.constant, batch))


def precision_bounds(
    make_model,
    make_optimizer,
    batches,
    dtype,
    *,
    clip_norm=None,
    gradients_of=loss_and_gradients_of,
    moments=False,
):
    """By how much training may differ that multiplies in `dtype` and keeps its weights in float32.

    As for `weight_rounding`, what is rounded on the way through a model and back is what slightly
    other weights would give. So TRIALS trainings by the independent loop, in float32, compute each
    step with weights moved by 2 u of `dtype`, up or down, and update those that were not moved.
    Weights that are not trained are moved, too.

    Args:
        gradients_of: a model to a function of a step and its batch, which gives the loss and the
            gradients.

    Returns:
        DEVIATIONS standard deviations of each step's loss, of each gradient norm and of each
        trained weight. Training in float32, the other side of the comparison, adds nothing to them
        that counts. Where both sides are float32, it is SIDES of them, and what rounding an update
        adds to each weight. With `moments`, those of AdamW's two moments of each weight follow the
        weights'.
    """
    model, random = make_model(), np.random.default_rng(0)
    variables = [v.value for v in model.trainable_variables]
    first = [v.numpy().astype(np.float64) for v in variables]
    fixed = [(v.value, v.numpy()) for v in model.non_trainable_weights if v.dtype == "float32"]

    loss_and_gradients = gradients_of(model)

    def trained(most):
        optimizer, weights, losses, norms = make_optimizer(), first, [], []
        for step, batch in enumerate(batches):
            for variable, weight in [*zip(variables, weights, strict=True), *fixed]:
                signs = random.choice([-1, 1], size=weight.shape)
                variable.assign((weight * (1 + most * signs)).astype(np.float32))
            loss, gradients = loss_and_gradients(step, batch)
            gradients = [np.asarray(g, np.float64) for g in gradients]
            norms.append(global_norm(gradients))
            if clip_norm is not None:
                gradients = clipped(gradients, clip_norm)
            weights = optimizer.update(weights, gradients)
            losses.append(float(loss))
        kept = [*optimizer.m, *optimizer.v] if moments else []
        return [np.array(losses), np.array(norms), *weights, *kept]

    exact = trained(0)
    moved = [trained(2 * UNIT_ROUNDOFF[dtype]) for _ in range(TRIALS)]
    squares = [[(a - b) ** 2 for a, b in zip(m, exact, strict=True)] for m in moved]
    bounds = [DEVIATIONS * np.sqrt(np.mean(s, 0)) for s in zip(*squares, strict=True)]
    return PrecisionBounds(bounds[0], bounds[1], bounds[2:])


def checkpoint_bounds(states, rate, additions, beta_2=0.95, epsilon=1e-8):
    """By how much trained weights may be off that were trained elsewhere on the same batches.

    As in `NumpyAdamW`, of which there is nothing but checkpoints here: a gradient that is off by
    `rounding`, of values as large as the tensor's largest, moves a weight by that over the
    gradient's own size, which is the root of its second moment, times the learning rate.

    Args:
        states: step to the state of one run; between two of them, steps are like the later one.
        rate: the highest learning rate.
        additions: those of a gradient.

    Returns:
        path of a weight to its bound, and the bound of the loss of a step of weights that are off
        by as much.
    """
    bounds, of_loss, before = {}, 0.0, 0
    last = states[max(states)]
    paths = [n.removeprefix("model/") for n in last if f"optimizer/velocity/{n[6:]}" in last]
    squares = {path: 0.0 for path in paths}
    for step in sorted(states):
        for path in paths:
            size = np.sqrt(states[step][f"optimizer/velocity/{path}"] / (1 - beta_2**step))
            # A gradient that is 0 to the last bit, as of a token that does not occur, stays so.
            moved = np.where(size > 0, rate * rounding(additions, size) / (size + epsilon), 0.0)
            squares[path] = squares[path] + (step - before) * moved**2
        before = step
    for path in paths:
        bounds[path] = np.sqrt(squares[path]) + rounding(3 * before) * np.abs(last[f"model/{path}"])
        of_loss += np.sum(last[f"optimizer/velocity/{path}"] * bounds[path] ** 2)
    return bounds, float(np.sqrt(of_loss))


def make_batches(rng, *, num=20, rows=4, time=8, vocab_size=61, last_rows=None, weights="uneven"):
    """Batches whose tokens repeat often and whose rows weigh very unevenly."""
    batches = []
    for i in range(num):
        n = last_rows if last_rows and i == num - 1 else rows
        x = rng.integers(0, 6, size=(n, time)).astype("int32")  # six of 61: many repetitions
        y = rng.integers(0, vocab_size, size=(n, time)).astype("int32")
        w = np.ones((n, time), "float32")
        if weights == "uneven":
            w = (rng.random((n, time)) < np.linspace(0.05, 1, n)[:, None]).astype("float32")
            w[-1, 0] = 0.25
        batches.append((x, y, w))
    return batches


def dataset(batches):
    """The batches as a tf.data.Dataset, with a static shape where they all have the same."""
    rows = {len(b[0]) for b in batches}
    leading = rows.pop() if len(rows) == 1 else None
    specs = tuple(tf.TensorSpec([leading, *t.shape[1:]], t.dtype) for t in batches[0])
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=specs)
    return data.apply(tf.data.experimental.assert_cardinality(len(batches)))


def largest_difference(model, other):
    return max(
        float(np.abs(a.numpy() - b.numpy()).max())
        for a, b in zip(model.trainable_variables, other.trainable_variables, strict=True)
    )
