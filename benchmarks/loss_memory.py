"""Loss and gradients for a vocabulary of 49,152 and 8 x 512 tokens: in chunks or all at once.

Each variant runs in a process of its own, which reports by how much its memory grows at the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import print_table

ROWS, WIDTH, VOCAB = 8 * 512, 576, 49_152


def _peak_kib() -> int:
    # Not getrusage, whose maximum is inherited from the parent process.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def measure(kind: str, dtype: str, runs: int) -> dict[str, float]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from tfllm.optimization.linear_cross_entropy import linear_cross_entropy

    hidden = tf.cast(tf.random.stateless_normal([ROWS, WIDTH], [0, 0]), dtype)
    kernel = tf.Variable(tf.random.stateless_normal([VOCAB, WIDTH], [0, 1]) * 0.02)
    labels = tf.random.stateless_uniform([ROWS], [0, 2], 0, VOCAB, tf.int32)
    weights = tf.ones([ROWS])

    @tf.function
    def step(hidden: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            weight = tf.cast(kernel, hidden.dtype)
            if kind == "chunks":
                loss = linear_cross_entropy(hidden, weight, labels, weights)
            else:
                logits = tf.cast(tf.matmul(hidden, weight, transpose_b=True), tf.float32)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_sum(losses * weights)
        return loss, *tape.gradient(loss, [hidden, kernel])

    step.get_concrete_function(hidden)
    before = _peak_kib()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        loss = float(step(hidden)[0])
        times.append(time.perf_counter() - start)
    peak = _peak_kib() - before
    return {"seconds": statistics.median(times[1:]), "mebibytes": peak / 1024, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, runs=4)))
        return
    title = f"loss and gradients of {ROWS:,} tokens, vocabulary {VOCAB:,}"
    table = [(title, "peak memory", "compared with stock", "time", "compared with stock")]
    for dtype in ("float32", "bfloat16"):
        results: dict[str, list[dict[str, float]]] = {"stock": [], "chunks": []}
        for _ in range(options.rounds):
            for kind, found in results.items():
                command = [sys.executable, __file__, "--measure", kind, dtype]
                output = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(output.stdout.splitlines()[-1]))
        middle = {
            kind: {k: statistics.median(r[k] for r in found) for k in found[0]}
            for kind, found in results.items()
        }
        for kind, name in (("stock", "stock TensorFlow"), ("chunks", "tfllm, in chunks")):
            own, stock = middle[kind], middle["stock"]
            table.append(
                (
                    f"{name}, {dtype}",
                    f"{own['mebibytes']:,.0f} MiB",
                    f"{own['mebibytes'] / stock['mebibytes']:.2f}x",
                    f"{own['seconds']:.2f} s",
                    f"{own['seconds'] / stock['seconds']:.2f}x",
                )
            )
    print_table(f"Loss of {ROWS:,} tokens, vocabulary {VOCAB:,}, width {WIDTH}", table)


if __name__ == "__main__":
    main()
