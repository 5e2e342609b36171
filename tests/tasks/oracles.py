"""Models that return what a test tells them to, in place of trained ones."""

from types import SimpleNamespace

import tensorflow as tf


class Oracle:
    """A model whose logits are a function of its inputs."""

    def __init__(self, logits, num_labels, context=512):
        self._logits = logits
        self.num_labels = num_labels
        self.config = SimpleNamespace(max_sequence_length=context)
        self.dtype_policy = SimpleNamespace(name="float32")
        self.weights = []

    def __call__(self, inputs, training=None):
        return self._logits(inputs["token_ids"], inputs["padding_mask"])


def one_hot_logits(places, depth):
    """20 for the place, 0 for the others."""
    return 20.0 * tf.one_hot(places, depth)
