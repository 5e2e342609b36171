"""Run in a separate process: load a checkpoint into a model under a strategy, and save one.

python -m tests.training.replicated_state FOLDER OPTIONS    # OPTIONS: JSON, see `main`
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.optimization import reference
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.training.checkpoints.checkpoints import Checkpoints, Progress
from tfllm.training.checkpoints.model_state import restore_state, state_of

CONFIG = ModelConfig(
    vocab_size=61,
    embedding_dim=16,
    num_layers=1,
    num_heads=2,
    feed_forward_dim=33,  # which replicas cannot share out evenly
    dropout=0.0,
    max_sequence_length=8,
)


def make_model(dtype: str, shards: bool) -> CausalLM:
    model = CausalLM(CONFIG, seed=3, dtype=dtype)
    model.compile(AdamW(1e-2, 0.1, shards=shards, epsilon=1e-5))
    model.optimizer.build(model.trainable_variables)
    return model


def batches(start: int, stop: int) -> list:
    return reference.make_batches(np.random.default_rng(0), num=8, rows=4)[start:stop]


def train(model: CausalLM, start: int, stop: int, worker: tuple[int, int] = (0, 1)) -> None:
    """Steps `start` to `stop`, each on a batch that step alone determines."""
    index, count = worker

    def dataset(context=None):
        rows = [np.concatenate(part) for part in zip(*batches(start, stop), strict=True)]
        data = tf.data.Dataset.from_tensor_slices(tuple(rows)).batch(4, drop_remainder=True)
        local = 4 // count
        return data.map(lambda *t: tuple(x[index * local : (index + 1) * local] for x in t))

    data = dataset()
    if count > 1:
        data = model.distribute_strategy.distribute_datasets_from_function(dataset)
    model.fit(data, shuffle=False, verbose=0, steps_per_epoch=stop - start)


def main(folder: Path, *, replicas: int, shards: bool, dtype: str) -> None:
    """Read step 3, check every replica, train to step 6 and save that."""
    worker = (0, 1)
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        resolver = strategy.cluster_resolver
        worker = (resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"]))
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    checkpoints = Checkpoints(folder, keep=9)
    with strategy.scope():
        model = make_model(dtype, shards)
    state, _ = checkpoints.read(3)
    restore_state(model, state, where="step 3")
    received = state_of(model)
    assert received.keys() == state.keys()
    for name, value in state.items():
        assert received[name].dtype == value.dtype
        np.testing.assert_array_equal(received[name], value, err_msg=name)
    for weight in model.weights:
        copies = strategy.experimental_local_results(weight.value)
        assert len(copies) == strategy.num_replicas_in_sync // worker[1]
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
    train(model, 3, 6, worker)
    state = state_of(model)
    if worker[0] == 0:
        checkpoints.save(state, Progress(step=6))
    print("SAVED")


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
