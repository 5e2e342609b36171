"""What a strategy costs, and what a second worker or replica gains, in tokens per second.

The model has 6 layers, width 384, 6 heads and a vocabulary of 8,192; it is trained by `model.fit`
on rows of 256 tokens, 8 rows per worker. Workers are processes of one core each, connected by
loopback; each kind of run has its own set of processes, the kinds take turns, and the medians over
the rounds are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

VOCAB, WIDTH, LAYERS, HEADS, ROWS, TIME = 8192, 384, 6, 6, 8, 256


def measure(kind: str, rows: int, precision: str, steps: int) -> dict:
    """Seconds per step in this process under the strategy `kind`, and its optimizer's memory."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tfllm.config import ModelConfig
    from tfllm.distribution.strategy import strategy
    from tfllm.models.causal_lm import CausalLM
    from tfllm.optimization.adamw import AdamW
    from tfllm.optimization.precision import dtype_policy

    class Timer(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            float(logs["loss"])
            self.seconds.append(time.perf_counter() - self.start)

    config = ModelConfig(
        VOCAB, WIDTH, LAYERS, HEADS, max_sequence_length=TIME, positions="learned", norm="layer",
        activation="gelu_tanh", gated=False, use_bias=True,
    )  # fmt: skip
    name, _, replicas = kind.partition("-")
    chosen = strategy(name, replicas=int(replicas) if replicas else None)

    def model(shards: bool) -> CausalLM:
        made = CausalLM(config, dtype=dtype_policy(precision))
        made.compile(AdamW(1e-3, 0.1, global_clipnorm=1.0, shards=shards))
        made.optimizer.build(made.trainable_variables)
        return made

    local = chosen.num_replicas_in_sync if name == "mirrored" else 1
    ids = np.random.default_rng(0).integers(0, VOCAB, (rows // local, TIME + 1)).astype("int32")

    def data(context: object = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat()

    batches = data() if name == "one" else chosen.distribute_datasets_from_function(data)
    with chosen.scope():
        made = model(shards=False)
        shared = model(shards=True).optimizer.state_bytes()
    timer = Timer()
    made.fit(batches, steps_per_epoch=steps + 2, verbose=0, shuffle=False, callbacks=[timer])
    return {
        "seconds": statistics.median(timer.seconds[2:]),
        "state": made.optimizer.state_bytes(),
        "shared_state": shared,
    }


def run(kind: str, cores: list[set[int]], rows: int, options: argparse.Namespace) -> dict:
    """Start a process for each set of cores; return what the first one measures."""
    sockets = [socket.socket() for _ in cores]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index, mine in enumerate(cores):
        environment = dict(os.environ)
        if kind == "multiworker":
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        command = [sys.executable, __file__, "--measure", kind, str(rows), options.precision]
        processes.append(
            subprocess.Popen(
                [*command, str(options.steps), ",".join(map(str, mine))],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
        )  # fmt: skip
    printed = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), printed
    return json.loads(printed[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of each process in a round")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, rows, precision, steps, cores = options.measure
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})  # before TensorFlow
        print(json.dumps(measure(kind, int(rows), precision, int(steps))))
        return
    from side_by_side import print_table

    from tfllm.optimization.precision import choose_precision

    options.precision = choose_precision(options.precision)
    cores = sorted(os.sched_getaffinity(0))
    every, first, second = set(cores), {cores[0]}, {cores[1 % len(cores)]}
    kinds = {
        "no strategy, all cores": ("one", [every], ROWS),
        "MirroredStrategy, 1 replica": ("mirrored-1", [every], ROWS),
        "MirroredStrategy, 2 replicas, the same batch": ("mirrored-2", [every], ROWS),
        "no strategy, 1 core": ("one", [first], ROWS),
        "1 worker of 1 core": ("multiworker", [first], ROWS),
        "2 workers of 1 core each": ("multiworker", [first, second], ROWS),
        "MirroredStrategy, 4 replicas": ("mirrored-4", [every], ROWS),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (kind, places, rows) in kinds.items():
            found = run(kind, places, rows, options)
            rates[name].append(len(places) * rows * TIME / found["seconds"])
    median = {name: statistics.median(values) for name, values in rates.items()}
    names = list(kinds)

    def ratio(one: int, other: int) -> str:
        """The median over the rounds of the ratio of two rates."""
        pairs = zip(rates[names[one]], rates[names[other]], strict=True)
        return f"{statistics.median(a / b for a, b in pairs):.2f}x"

    compared = {1: (0, "the same without a strategy"), 2: (0, "one device on the same cores"),
                4: (3, "the same without a strategy"), 5: (4, "1 worker")}  # fmt: skip
    model = f"{LAYERS} layers x {WIDTH}, {ROWS} x {TIME} tokens"
    table = [(f"scaling, {options.precision}, {model}", "tokens/s", "speed", "compared with")]
    for i, name in enumerate(names[:-1]):
        speed, base = ("1.00x", "")
        if i in compared:
            other, base = compared[i]
            speed = ratio(i, other)
        table.append((name, f"{median[name]:,.0f}", speed, base))
    print_table("Scaling", table)
    share = found["shared_state"] / found["state"]
    print(
        f"optimizer state of a replica of 4: {found['state'] / 2**20:.1f} MiB, shared (ZeRO-1) "
        f"{found['shared_state'] / 2**20:.1f} MiB: {share:.3f}x"
    )


if __name__ == "__main__":
    main()
