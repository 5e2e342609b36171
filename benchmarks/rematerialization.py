"""Peak memory and step time of a 12-layer model on 8 x 1,024 tokens, with and without recomputing.

Each variant runs in processes of its own, in turn. Memory is a process's peak RSS minus its RSS
after model and optimizer were built: it includes the graph, activations, gradients and temporaries,
but not the weights and their moments.
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

ROWS, TIME = 8, 1024
SHAPE = {
    "vocab_size": 8192, "embedding_dim": 384, "num_layers": 12, "num_heads": 6,
    "max_sequence_length": TIME,
}  # fmt: skip
"""blocks as in Llama: RMSNorm, rotary positions, SwiGLU, no biases; 23.0M parameters"""
MOST_MEMORY, MOST_TIME = 0.45, 1.4


def _kib(name: str) -> int:
    """A line of /proc/self/status: VmRSS is the current memory of this process, VmHWM its peak."""
    # Not getrusage, whose maximum is inherited from the parent process.
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def measure(kind: str, precision: str, steps: int) -> dict[str, object]:
    """Measure a few steps of training, in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np

    from tfllm.config import ModelConfig
    from tfllm.models.causal_lm import CausalLM
    from tfllm.optimization.adamw import AdamW
    from tfllm.optimization.precision import dtype_policy

    model = CausalLM(
        ModelConfig(**SHAPE), rematerialize=kind == "recomputed", dtype=dtype_policy(precision)
    )
    model.compile(AdamW(1e-3, 0.1, global_clipnorm=1.0))
    model.optimizer.build(model.trainable_variables)
    ids = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (ROWS, TIME + 1))
    ids = ids.astype("int32")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = _kib("VmRSS")
    seconds, cpu_seconds, losses = [], [], []
    for _ in range(steps + 1):  # the first one traces
        wall, cpu = time.perf_counter(), time.process_time()
        losses.append(
            float(model.train_on_batch(ids[:, :-1], ids[:, 1:], return_dict=True)["loss"])
        )
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    return {
        "mebibytes": (_kib("VmHWM") - before) / 1024,
        "seconds": seconds[1:],
        "cpu_seconds": cpu_seconds[1:],
        "losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=3, help="in each process, after the first")
    parser.add_argument(
        "--precision", nargs="+", default=["float32", "bfloat16"], help="of the products"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.steps)))
        return
    title = f"{SHAPE['num_layers']} layers x {SHAPE['embedding_dim']}, {ROWS} x {TIME:,} tokens"
    compared = "compared with kept"
    table = [(title, "peak memory", compared, "time", compared, f"CPU time, {compared}")]
    for precision in options.precision:
        results: dict[str, list[dict]] = {"kept": [], "recomputed": []}
        for _ in range(options.rounds):
            for kind, found in results.items():
                command = [sys.executable, __file__, "--measure", kind, precision]
                command += ["--steps", str(options.steps)]
                output = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(output.stdout.splitlines()[-1]))
        middle = {
            kind: {
                "mebibytes": statistics.median(r["mebibytes"] for r in found),
                **{
                    clock: statistics.median(s for r in found for s in r[clock])
                    for clock in ("seconds", "cpu_seconds")
                },
            }
            for kind, found in results.items()
        }
        kept = middle["kept"]
        for kind, own in middle.items():
            table.append(
                (
                    f"activations {kind}, {precision}",
                    f"{own['mebibytes']:,.0f} MiB",
                    f"{own['mebibytes'] / kept['mebibytes']:.2f}x",
                    f"{own['seconds']:.2f} s",
                    f"{own['seconds'] / kept['seconds']:.2f}x",
                    f"{own['cpu_seconds'] / kept['cpu_seconds']:.2f}x",
                )
            )
        first = {kind: found[0]["losses"] for kind, found in results.items()}
        print(f"losses, {precision}: {first}")
    print_table(f"Rematerialization: at most {MOST_MEMORY}x memory, {MOST_TIME}x time", table)


if __name__ == "__main__":
    main()
