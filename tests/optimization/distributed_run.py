"""Run in a separate process: training under a strategy; weights and history go to a file.

Only one MirroredStrategy per process: a second one would reuse the keys of its collectives.
"""

import dataclasses
import json
import sys

import numpy as np
import tensorflow as tf

from tests.optimization import reference
from tests.optimization.tiny_training import adamw
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM

CONFIG = ModelConfig(
    vocab_size=61,
    embedding_dim=16,
    num_layers=1,
    num_heads=2,
    feed_forward_dim=32,
    max_sequence_length=8,
)


def main(replicas: int, out: str, options: dict) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    batches = reference.make_batches(
        np.random.default_rng(0), num=6, rows=4, last_rows=options["last_rows"]
    )
    config = dataclasses.replace(CONFIG, dropout=options["dropout"])
    with strategy.scope():
        model = CausalLM(config, seed=3, dtype=options["dtype"])
        model.gradient_accumulation = options["accumulation"]
        optimizer = adamw(global_clipnorm=0.5)
        model.compile(optimizer, **options["compile"])
    x, y, w = (np.concatenate(t) for t in zip(*batches, strict=True))
    data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(4)
    history = model.fit(data, shuffle=False, validation_data=data, verbose=0).history
    np.savez(out, *[v.numpy() for v in model.trainable_variables])
    history["iterations"] = int(model.optimizer.iterations.numpy())
    print("HISTORY", json.dumps(history))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
