"""An independent training loop: dense, eager, token-weighted, with AdamW in NumPy float64."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class NumpyAdamW:
    """Loshchilov & Hutter's AdamW on a list of arrays; decay of matrices only."""

    def __init__(self, learning_rate, weight_decay=0.1, beta_1=0.9, beta_2=0.95, epsilon=1e-8):
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.step, self.m, self.v = 0, None, None

    def update(self, weights, gradients):
        rate = self.learning_rate(self.step) if callable(self.learning_rate) else self.learning_rate
        self.step += 1
        if self.m is None:
            self.m = [np.zeros_like(w) for w in weights]
            self.v = [np.zeros_like(w) for w in weights]
        updated = []
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            self.m[i] = self.beta_1 * self.m[i] + (1 - self.beta_1) * g
            self.v[i] = self.beta_2 * self.v[i] + (1 - self.beta_2) * g**2
            if w.ndim >= 2:
                w = w - rate * self.weight_decay * w
            # Kingma & Ba, end of section 2: the form in which epsilon ("epsilon hat", as in
            # TensorFlow) is added before the bias correction.
            size = rate * np.sqrt(1 - self.beta_2**self.step) / (1 - self.beta_1**self.step)
            updated.append(w - size * self.m[i] / (np.sqrt(self.v[i]) + self.epsilon))
        return updated


def clipped(gradients, norm):
    total = np.sqrt(sum((g**2).sum() for g in gradients))
    return [g * min(1.0, norm / total) for g in gradients]


def train(model, batches, optimizer, *, clip_norm=None, extra_loss=None):
    """Train `model` in place on batches (x, y, weights); the token-mean loss of each step."""
    variables = [v.value for v in model.trainable_variables]
    losses = []
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
        if clip_norm is not None:
            gradients = clipped(gradients, clip_norm)
        weights = optimizer.update([v.numpy().astype(np.float64) for v in variables], gradients)
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight.astype(np.float32))
        losses.append(float(objective))
    return losses


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
