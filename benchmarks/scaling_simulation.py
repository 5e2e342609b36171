"""A simulation, not a measurement: what a training step costs on 8 to 1,024 accelerators.

From the operations of a model, and the bytes of gradients that its training step reduces, the cost
model of `scaling_model.py` derives a step's time, its efficiency, tokens per second, and the days
for a number of tokens. Nothing runs on an accelerator here.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import scaling_model
from scaling_model import Cluster, Work, ring_bytes, simulate, state_bytes, tokens_for
from side_by_side import print_table

from tfllm.charts.number_format import quantity, three_figures
from tfllm.charts.run_figures import figures
from tfllm.charts.run_logs import read_runs
from tfllm.config import ModelConfig, build
from tfllm.models.flops import flops_per_token
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes.decoders import DECODER_SIZES

BANDWIDTHS = (10, 25, 100, 400, 1600, 3200)
"""network bandwidths of a node, in Gbit/s"""


# ------------------------------------------------------- comparison with published figures


@dataclass(frozen=True)
class Published:
    """A measured efficiency of synchronous data parallelism from the literature."""

    name: str
    source: str
    parameters: float
    seconds: float
    """time of a step on one accelerator"""
    accelerators: int
    per_node: int
    intra_bandwidth: float
    inter_bandwidth: float
    efficiency: float
    """relative to `of` accelerators"""
    of: int = 1

    def simulated(self, overlap: float) -> float:
        cluster = Cluster(
            1.0, 1.0, self.per_node, self.intra_bandwidth, self.inter_bandwidth, 5e-6, 15e-6
        )
        work = Work(
            self.parameters, self.seconds, 4 * self.parameters, 1.0, overlap,
            checkpoint_every=math.inf,
        )  # fmt: skip
        many, few = (simulate(work, n, cluster).efficiency for n in (self.accelerators, self.of))
        return many / few


_HOROVOD = "Horovod's benchmarks: P100, 4 a server, 25 Gbit/s RoCE"
# Seconds per step: 64 images at the 142 (Inception V3) and 154 (VGG-16) images/s of one P100 in
# TensorFlow's benchmarks of May 2017. Goyal et al.: 29 hours for 90 epochs on one server of 8.
PUBLISHED = (
    Published("Inception V3", _HOROVOD, 23.8e6, 64 / 142, 128, 4, 16e9, 25e9 / 8, 0.90),
    Published("Inception V3", _HOROVOD, 23.8e6, 64 / 142, 512, 4, 16e9, 25e9 / 8, 0.90),
    Published("VGG-16", _HOROVOD, 138.4e6, 64 / 154, 128, 4, 16e9, 25e9 / 8, 0.79),
    Published("VGG-16", _HOROVOD, 138.4e6, 64 / 154, 512, 4, 16e9, 25e9 / 8, 0.68),
    Published(
        "ResNet-50", "Goyal et al., 2017: P100, 8 a server, 50 Gbit/s Ethernet", 25.6e6,
        29 * 3600 * 8 * 32 / (90 * 1.281e6), 256, 8, 40e9, 50e9 / 8, 0.90, of=8,
    ),
)  # fmt: skip


def print_published() -> None:
    table = [
        ("published, float32 gradients", "accelerators", "measured", "no overlap", "full overlap")
    ]
    for point in PUBLISHED:
        low, high = point.simulated(0.0), point.simulated(1.0)
        table.append(
            (
                f"{point.name} ({point.source})",
                f"{point.accelerators:,}",
                f"{point.efficiency:.0%}",
                f"{low:.0%} ({100 * (low - point.efficiency):+.0f} points)",
                f"{high:.0%} ({100 * (high - point.efficiency):+.0f} points)",
            )
        )
    print_table("Simulated efficiencies compared with published ones", table)
    print(
        "These systems all overlap in part, so the measured efficiency should lie between the\n"
        "two. The cost model has no congestion and no stragglers: where a larger cluster of the\n"
        "same kind was measured to be less efficient (VGG-16), it sees no difference."
    )


# ------------------------------------------------------------------ the command


def work_of(config: ModelConfig, length: int, options: argparse.Namespace) -> Work:
    """The work of a model's step, derived from its shape."""
    parameters = num_parameters(config)
    flops = flops_per_token(config, length) * options.tokens
    return Work(
        parameters,
        flops * (4 / 3 if options.rematerialize else 1),
        options.gradient_bytes * parameters,
        options.tokens,
        options.overlap,
        options.zero1,
        options.checkpoint_every,
        options.algorithm,
    )


def measured_work(options: argparse.Namespace) -> tuple[str, Work, float]:
    """The name of a run, the work of a replica in a step, and the FLOP/s that it reached."""
    (run,) = read_runs([options.run])
    config, training = build(ModelConfig, run.section("model")), run.section("training")
    rate = figures(run).tokens_per_second
    if not rate:
        raise ValueError(f"{options.run} has logged no tokens_per_second; give one that has")
    replicas, length = run.num_replicas or 1, training["sequence_length"]
    options.tokens = training["batch_size"] * length / replicas
    options.rematerialize = False  # already part of the measured speed
    achieved = rate / replicas * flops_per_token(config, length)
    return run.name, work_of(config, length, options), achieved


def rows_of(work: Work, cluster: Cluster, options: argparse.Namespace) -> list[tuple[str, ...]]:
    head = (
        "accelerators",
        "batch, tokens",
        "compute",
        "all-reduce left",
        "all-gather",
        "checkpoints",
    )
    table = [(*head, "step", "efficiency", "tokens/s", f"days, {quantity(options.days_for)}", "")]
    for number in options.accelerators:
        step = simulate(work, number, cluster)
        remarks = []
        if step.communication > step.compute:
            remarks.append("communication dominates")
        if state_bytes(work, number) > cluster.memory:
            remarks.append("does not fit")
        table.append(
            (
                f"{number:,}",
                quantity(step.tokens),
                *(
                    f"{1000 * s:,.0f} ms"
                    for s in (step.compute, step.exposed, step.all_gather, step.checkpoint)
                ),
                f"{step.seconds:.2f} s",
                f"{step.efficiency:.0%}",
                quantity(step.tokens_per_second),
                three_figures(options.days_for / step.tokens_per_second / 86400),
                "; ".join(remarks),
            )
        )
    return table


def print_model(name: str, work: Work, cluster: Cluster, options: argparse.Namespace) -> None:
    most = max(options.accelerators)
    print_table(
        f"Simulated: {name}, {quantity(work.parameters)} parameters, {quantity(work.tokens)} "
        "tokens an accelerator and step",
        rows_of(work, cluster, options),
    )
    print(
        f"An all-reduce of {work.gradient_bytes / 1e9:.3g} GB of gradients; on a ring of {most:,} "
        f"each accelerator sends {ring_bytes(work.gradient_bytes, most) / 1e9:.3g} GB. Weights, "
        f"gradients and moments: {state_bytes(work, most) / 1e9:.3g} GB an accelerator."
    )
    needed = tokens_for(0.9, work, most, cluster)
    print(
        f"For 90 % at {most:,} without overlap an accelerator needs {quantity(needed)} tokens in a "
        "step (more rows, or gradient accumulation: it reduces once a step)."
    )


def print_bandwidths(works: dict[str, Work], cluster: Cluster, number: int) -> None:
    """Print the efficiency for different network bandwidths."""
    table = [("network of a node", *works)]
    for gigabits in BANDWIDTHS:
        given = dataclasses.replace(cluster, inter_bandwidth=gigabits * 1e9 / 8)
        steps = [simulate(work, number, given) for work in works.values()]
        cells = [
            f"{step.efficiency:.0%}" + (", dominates" if step.communication > step.compute else "")
            for step in steps
        ]
        table.append((f"{gigabits:,} Gbit/s", *cells))
    print_table(f"Simulated: efficiency on {number:,} accelerators by the network", table)


def print_assumptions(cluster: Cluster, options: argparse.Namespace, measured: str) -> None:
    print(f"{__doc__}\n{scaling_model.__doc__}")
    compute = measured or (
        f"{cluster.flops / 1e12:,.0f} TFLOP/s an accelerator, of which a step reaches "
        f"{cluster.utilization:.0%}"
    )
    lines = (
        compute,
        f"accelerators in a node: {cluster.per_node}, {cluster.intra_bandwidth / 1e9:g} GB/s and "
        f"{cluster.intra_latency * 1e6:g} us between them",
        f"{cluster.inter_bandwidth / 1e9:g} GB/s ({8 * cluster.inter_bandwidth / 1e9:g} Gbit/s) of "
        f"a node to the others, {cluster.inter_latency * 1e6:g} us",
        f"gradients of {options.gradient_bytes:g} bytes a weight, reduced once a step, "
        f"{options.overlap:.0%} of it during the backward pass; algorithm: {options.algorithm}",
        f"optimizer state {'shared out (ZeRO-1)' if options.zero1 else 'whole on each'}; blocks "
        f"{'recomputed, a third more compute' if options.rematerialize else 'not recomputed'}",
        f"a checkpoint of 12 bytes a weight every {options.checkpoint_every:g} steps: copied to "
        f"the host at {cluster.copy_bandwidth / 1e9:g} GB/s while all wait, then written at "
        f"{cluster.checkpoint_bandwidth / 1e9:g} GB/s in the background",
        f"{cluster.memory / 1e9:g} GB an accelerator, of which activations are not counted",
        "equal accelerators; no stragglers, congestion or failures; the input is never waited for",
        "the batch grows with the accelerators: beyond a critical size a larger one no longer "
        "saves steps (McCandlish et al., 2018), and tokens a second are not progress a second",
    )
    print("Assumptions:\n" + "\n".join(f"- {line}" for line in lines))


def draw(works: dict[str, Work], cluster: Cluster, options: argparse.Namespace) -> None:
    from tfllm.charts.run_charts import require_matplotlib, style_of

    require_matplotlib()
    from matplotlib.figure import Figure

    numbers, most = options.accelerators, max(options.accelerators)
    rows = 1 + math.ceil(len(works) / 2)
    figure = Figure(figsize=(11, 3.3 * rows + 0.5), layout="constrained")
    figure.suptitle("Simulation, not a measurement: data-parallel training", weight="bold")
    grid = figure.add_gridspec(rows, 2)

    by_number, by_network = (figure.add_subplot(grid[0, column]) for column in (0, 1))
    networks = [dataclasses.replace(cluster, inter_bandwidth=g * 1e9 / 8) for g in BANDWIDTHS]
    for i, (name, work) in enumerate(works.items()):
        colour = style_of(i)[0]
        values = [simulate(work, n, cluster).efficiency for n in numbers]
        by_number.plot(range(len(numbers)), values, color=colour, marker=".", label=name)
        values = [simulate(work, most, given).efficiency for given in networks]
        by_network.plot(range(len(networks)), values, color=colour, marker=".", label=name)
    by_number.set_xticks(range(len(numbers)), [f"{n:,}" for n in numbers])
    by_number.set(title="Efficiency", xlabel="accelerators")
    by_network.set_xticks(range(len(networks)), [f"{g:,}" for g in BANDWIDTHS])
    by_network.set(title=f"Efficiency on {most:,}", xlabel="Gbit/s of a node")
    for axes in (by_number, by_network):
        axes.set_ylim(0, 1.05)
        axes.legend(frameon=False, loc="lower right")

    parts = {"compute": 6, "exposed": 0, "all_gather": 1, "checkpoint": 3}
    names = {"exposed": "all-reduce", "all_gather": "all-gather", "checkpoint": "checkpoints"}
    for i, (name, work) in enumerate(works.items()):
        axes = figure.add_subplot(grid[1 + i // 2, i % 2])
        steps = [simulate(work, n, cluster) for n in numbers]
        base = [0.0] * len(steps)
        for part, number in parts.items():
            shares = [getattr(step, part) / step.seconds for step in steps]
            if max(shares) > 0.005:
                label, colour = names.get(part, part), style_of(number)[0]
                axes.bar(range(len(steps)), shares, 0.75, base, color=colour, label=label)
            base = [a + b for a, b in zip(base, shares, strict=True)]
        axes.set_xticks(range(len(steps)), [f"{n:,}" for n in numbers])
        axes.set(title=f"Where a step's time goes: {name}", xlabel="accelerators", ylim=(0, 1.18))
        axes.legend(frameon=False, loc="upper left", ncols=4)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(alpha=0.2, axis="y")
        axes.set_axisbelow(True)
    figure.savefig(options.out, dpi=110)
    print(f"\nwrote {options.out}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog=scaling_model.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    base, add = Cluster(), made.add_argument
    add("--models", nargs="+", default=["llama-125m", "llama-1b", "llama-2-7b"], metavar="SIZE")
    add("--run", help="a run of `tfllm train`: its model, rows and measured tokens/s instead")
    add(
        "--accelerators", nargs="+", type=int, default=[1, 8, 16, 32, 64, 128, 256, 512, 1024],
        metavar="N",
    )  # fmt: skip
    numbers = {
        "tflops": (base.flops / 1e12, "peak TFLOP/s of an accelerator"),
        "utilization": (base.utilization, "fraction of it that a single accelerator reaches"),
        "intra-bandwidth": (base.intra_bandwidth / 1e9, "GB/s between accelerators of a node"),
        "inter-bandwidth": (base.inter_bandwidth / 1e9, "GB/s of a node to the others"),
        "intra-latency": (base.intra_latency * 1e6, "microseconds"),
        "inter-latency": (base.inter_latency * 1e6, "microseconds"),
        "memory": (base.memory / 1e9, "GB of an accelerator"),
        "gradient-bytes": (4.0, "of a weight's gradient"),
        "tokens": (16384.0, "of an accelerator in a step"),
        "overlap": (0.0, "share of the all-reduce that runs during the backward pass"),
        "checkpoint-every": (1000.0, "steps"),
        "copy-bandwidth": (base.copy_bandwidth / 1e9, "GB/s from an accelerator to its host"),
        "checkpoint-bandwidth": (base.checkpoint_bandwidth / 1e9, "GB/s to the storage"),
        "days-for": (300e9, "number of tokens whose training time is computed"),
    }
    for name, (default, text) in numbers.items():
        add(f"--{name}", type=float, default=default, help=f"{text} (default: {default:g})")
    add("--per-node", type=int, default=base.per_node, help="accelerators (default: 8)")
    add("--sequence-length", type=int, default=2048, help="tokens in a row (default: 2048)")
    add("--algorithm", choices=["best", "ring", "hierarchical"], default="best")
    add("--zero1", action="store_true", help="optimizer state shared out, weights gathered")
    add("--rematerialize", action="store_true", help="a third more compute")
    add("--out", type=Path, help="also draw it into this PNG file")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    numbers = sorted({*options.accelerators})
    if numbers[0] < 1 or any(n > options.per_node and n % options.per_node for n in numbers):
        sys.exit(
            f"accelerators must be at least 1 and fill whole nodes of {options.per_node}; "
            f"received {options.accelerators}"
        )
    if not 0 <= options.overlap <= 1:
        sys.exit(f"overlap is a share and must lie in [0, 1]; received {options.overlap:g}")
    options.accelerators = numbers
    cluster = Cluster(
        options.tflops * 1e12, options.utilization, options.per_node,
        options.intra_bandwidth * 1e9, options.inter_bandwidth * 1e9,
        options.intra_latency * 1e-6, options.inter_latency * 1e-6, options.memory * 1e9,
        options.copy_bandwidth * 1e9, options.checkpoint_bandwidth * 1e9,
    )  # fmt: skip
    measured, works = "", {}
    try:
        if options.run:
            name, work, achieved = measured_work(options)
            works[name] = work
            cluster = dataclasses.replace(cluster, flops=achieved, utilization=1.0)
            measured = f"{quantity(achieved / 1e9)} GFLOP/s a replica, as measured in {options.run}"
        for name in () if options.run else options.models:
            config = DECODER_SIZES.config(name)
            length = min(options.sequence_length, config.max_sequence_length)
            works[name] = work_of(config, length, options)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print_assumptions(cluster, options, measured)
    for name, work in works.items():
        print_model(name, work, cluster, options)
    if options.accelerators[-1] > cluster.per_node:
        print_bandwidths(works, cluster, options.accelerators[-1])
    print_published()
    if options.out:
        draw(works, cluster, options)


if __name__ == "__main__":
    main()
