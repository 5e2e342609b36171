"""Run in a separate process: preference tuning under a strategy, whose weights go to a file.

Only one MirroredStrategy per process: a second one would reuse the keys of its collectives.
"""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.preference_tuning import PreferenceTuning

PAIRS, TIME, VOCAB = 10, 7, 31
CONFIG = ModelConfig(
    vocab_size=VOCAB, embedding_dim=16, num_layers=1, num_heads=2, feed_forward_dim=32,
    max_sequence_length=TIME,
)  # fmt: skip


def pairs() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Replies of several lengths; the last pair is a row that only fills a batch."""
    rng = np.random.default_rng(0)
    shape = (PAIRS, 2, TIME)
    ids = rng.integers(0, VOCAB, (PAIRS, 2, TIME + 1)).astype("int32")
    lengths = rng.integers(3, TIME + 1, shape[:2])[..., None]
    real = np.arange(TIME) < lengths
    weights = (real & (np.arange(TIME) >= 2)).astype("float32")
    weights[-1] = 0
    reference = -rng.uniform(5, 20, shape[:2]).astype("float32")
    x = {"token_ids": ids[..., :-1], "segment_ids": real.astype("int32"), "reference": reference}
    return x, ids[..., 1:], weights


def tuned(accumulation: int = 1, beta: float = 0.3) -> tuple[PreferenceTuning, dict]:
    """Two epochs in batches of 4 and the pairs that are left."""
    model = PreferenceTuning(CausalLM(CONFIG, seed=3), beta=beta)
    model.gradient_accumulation = accumulation
    model.compile(keras.optimizers.SGD(0.5, global_clipnorm=2.0))
    data = tf.data.Dataset.from_tensor_slices(pairs()).batch(4)
    history = model.fit(data, epochs=2, shuffle=False, validation_data=data, verbose=0).history
    return model, history


def main(replicas: int, out: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)]).scope():
        model, history = tuned()
    np.savez(out, *[v.numpy() for v in model.trainable_variables])
    print("HISTORY", json.dumps(history))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
