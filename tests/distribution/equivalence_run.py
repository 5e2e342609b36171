"""Run in a separate process: training cases under one strategy, whose results go to a folder.

Only one strategy per process: the collectives of a second one would reuse the keys of the first.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tests.distribution.cases import CONFIG, Case, batches_of
from tfllm.distribution.strategy import strategy, worker_index
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.schedules import WarmupSchedule


def compiled(case: Case) -> CausalLM:
    config = {**CONFIG, "dropout": case.dropout}
    model = CausalLM(config, seed=3, dtype=case.dtype)
    model.gradient_accumulation = case.accumulation
    model.detailed_logs = True
    model.votes_to_stop = tf.Variable(0.0)
    if case.frozen:
        freeze(model)
    if case.regularized:
        regularize(model)
    optimizer = AdamW(
        WarmupSchedule(3e-3, 20, 5),
        0.1,
        beta_2=0.95,
        epsilon=1e-8,
        global_clipnorm=0.5,
        shards=case.shards,
    )
    model.compile(
        optimizer,
        jit_compile=case.xla,
        steps_per_execution=case.steps_per_execution,
        weighted_metrics=["accuracy"] if case.metrics else None,
    )
    return model


def freeze(model: CausalLM) -> None:
    """As LoRA does: nothing is trained but what attention projects."""
    for layer in model._flatten_layers():
        layer.trainable = True
    for layer in (model.token_embedding, model.final_norm):
        layer.trainable = False
    for block in model.blocks:
        for layer in (block.attention_norm, block.feed_forward_norm, block.feed_forward):
            layer.trainable = False


def regularize(model: CausalLM) -> None:
    for block in model.blocks:
        block.feed_forward.outer.kernel.regularizer = keras.regularizers.L2(0.01)


class Steps(keras.callbacks.Callback):
    """What callbacks see after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[dict] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        assert logs is not None
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        values = {name: float(value) for name, value in logs.items()}
        self.logs.append({**values, "learning_rate": float(optimizer.learning_rate.numpy())})


def main(out: Path, name: str, replicas: int, cases: dict[str, dict]) -> None:
    with_strategy = strategy(name, replicas=replicas or None)
    me = worker_index(with_strategy)
    for title, fields in cases.items():
        case = Case(**fields)
        x, y, w = (np.concatenate(t) for t in zip(*batches_of(case), strict=True))
        data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(case.rows)
        options = tf.data.Options()
        policy = tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = policy
        data = data.with_options(options)
        with with_strategy.scope():
            model = compiled(case)
        steps = Steps()
        model.fit(data, shuffle=False, verbose=0, callbacks=[steps])
        history = {k: v[-1] for k, v in model.history.history.items()}
        evaluated = model.evaluate(data, verbose=0, return_dict=True)
        state = {
            v.path.partition("/")[2]: np.array(tf.convert_to_tensor(v))
            for v in model.weights
            if v.dtype != "uint32"
        }
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        for value in inner.portable_state():
            of = "" if value.of is None else "/" + value.of.path.partition("/")[2]
            state[f"optimizer/{value.name}{of}"] = value.read()
        np.savez(out / f"{title}-{me}.npz", **state)
        found = {
            "steps": steps.logs,
            "history": history,
            "evaluated": evaluated,
            "iterations": int(inner.iterations.numpy()),
            "state_bytes": inner.state_bytes(),
            "num_trainable": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        }
        (out / f"{title}-{me}.json").write_text(json.dumps(found))
        print("DONE", title, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
