"""A causal attention layer on 512 to 4,096 tokens: its weights whole, or a chunk at a time.

Memory is the growth of a process at its peak; each variant runs in processes of its own. Time is
taken in one process, in which the variants alternate.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import print_table, wall_and_cpu

HEADS, HEAD_DIM = 8, 64
LENGTHS = (512, 1024, 2048, 4096)
MOST_MEMORY, MOST_TIME = 0.35, 0.9
"""of training at 4,096 tokens, compared with the whole"""
KINDS = ("whole", "chunks")


def _kib(name: str) -> int:
    """A line of /proc/self/status: VmRSS is the current memory of this process, VmHWM its peak."""
    # Not getrusage, whose maximum is inherited from the parent process.
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def tfllm_step(kind: str, rows: int, length: int, training: bool, dtype: str) -> Callable[[], Any]:
    """A traced function without arguments that runs the layer, and in training its gradients."""
    import tensorflow as tf

    from tfllm.layers import MultiHeadAttention, masks

    layer = MultiHeadAttention(HEADS, causal=True, dtype=dtype, seed=0)
    x = tf.random.stateless_normal([rows, length, HEADS * HEAD_DIM], [0, 0])
    layer.build(x.shape)
    masks.LONG_CAUSAL = 1 if kind == "chunks" else 10**9

    @tf.function
    def step(x: tf.Tensor) -> Any:
        if not training:
            return layer(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        sources = [x, *(weight.value for weight in layer.trainable_weights)]
        return tape.gradient(y, sources, output_gradients=y)

    run = step.get_concrete_function(x)
    return lambda: run(x)[0].numpy() if training else run(x).numpy()


def torch_step(rows: int, length: int, training: bool, dtype: str) -> Callable[[], Any]:
    """The same layer with PyTorch's `scaled_dot_product_attention`."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    width = HEADS * HEAD_DIM
    kind = getattr(torch, dtype.removeprefix("mixed_"))
    x = torch.randn(rows, length, width, dtype=kind, requires_grad=training)
    project = torch.nn.Linear(width, 3 * width, bias=False, dtype=kind)
    merge = torch.nn.Linear(width, width, bias=False, dtype=kind)

    def step() -> None:
        with torch.set_grad_enabled(training):
            heads = project(x).view(rows, length, 3 * HEADS, HEAD_DIM).transpose(1, 2)
            mixed = torch.nn.functional.scaled_dot_product_attention(
                *heads.chunk(3, 1), is_causal=True
            )
            y = merge(mixed.transpose(1, 2).reshape(rows, length, width))
        if training:
            y.backward(y.detach())

    return step


def measure_memory(kind: str, rows: int, length: int, training: bool, dtype: str) -> float:
    """MiB by which this process grows."""
    step = tfllm_step(kind, rows, length, training, dtype)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = _kib("VmRSS")
    for _ in range(2):
        step()
    return (_kib("VmHWM") - before) / 1024


def measure_time(rows: int, length: int, training: bool, dtype: str, runs: int) -> dict:
    """Seconds of wall clock and of processors for each run of each variant."""
    steps = {kind: tfllm_step(kind, rows, length, training, dtype) for kind in KINDS}
    if importlib.util.find_spec("torch"):
        steps["PyTorch"] = torch_step(rows, length, training, dtype)
    taken: dict[str, list] = {kind: [] for kind in steps}
    for step in steps.values():
        step()
    for _ in range(runs):
        for kind, step in steps.items():
            taken[kind].append(wall_and_cpu(step))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dtype", default="float32", help="dtype policy, such as mixed_bfloat16")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if options.measure:
        kind, length, training = options.measure
        given = (options.rows, int(length), training == "True", options.dtype)
        found: Any = (
            measure_time(*given, options.runs) if kind == "time" else measure_memory(kind, *given)
        )
        print(json.dumps(found))
        return

    def measured(*what: Any) -> Any:
        command = [sys.executable, __file__, "--measure", *map(str, what)]
        command += ["--rows", str(options.rows), "--runs", str(options.runs)]
        command += ["--dtype", options.dtype]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(output.stdout.splitlines()[-1])

    title = f"{options.rows} x {HEADS} heads x {HEAD_DIM}, {options.dtype}"
    clocks = ("wall, least", "median", "CPU, least", "median")
    table = [(title, "variant", "memory", "compared", *clocks, "compared: wall", "CPU")]
    for training in (True, False):
        for length in options.lengths:
            memory = {kind: measured(kind, length, training) for kind in KINDS}
            seconds = {
                kind: [f(t) for t in zip(*runs, strict=True) for f in (min, statistics.median)]
                for kind, runs in measured("time", length, training).items()
            }
            for kind, (wall, middle, cpu, cpu_middle) in seconds.items():
                least, _, least_cpu, _ = seconds["whole"]
                mebibytes = memory.get(kind)
                table.append(
                    (
                        f"{'training' if training else 'forward'}, {length:,} tokens",
                        kind,
                        "-" if mebibytes is None else f"{mebibytes:,.0f} MiB",
                        "-" if mebibytes is None else f"{mebibytes / memory['whole']:.2f}x",
                        *(f"{1000 * t:,.0f} ms" for t in (wall, middle, cpu, cpu_middle)),
                        f"{wall / least:.2f}x",
                        f"{cpu / least_cpu:.2f}x",
                    )
                )
    print_table(
        f"Attention at 4,096 tokens, training: at most {MOST_MEMORY}x memory, {MOST_TIME}x time",
        table,
    )


if __name__ == "__main__":
    main()
