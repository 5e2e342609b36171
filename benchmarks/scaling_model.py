"""A cost model of synchronous data parallelism: the time of a step on many accelerators.

Compute is FLOPs / (peak x utilization). A message of s bytes costs latency + s / bandwidth
(Hockney, 1994). With n accelerators, g in a node, m = n / g nodes and S bytes:

    ring          2 (n - 1) (latency + S / (n bandwidth)), with the latency and bandwidth of the
                  slowest link (Patarasuk & Yuan, 2009)
    hierarchical  reduce-scatter in the node, (g - 1) (latency + S / (g bandwidth)); a ring over
                  the nodes for each of the g parts, which share the node's network:
                  2 (m - 1) (latency + S / (m bandwidth)); all-gather in the node, with the cost of
                  the reduce-scatter (Jia et al., 2018; Cho et al., BlueConnect, 2019)
    all-gather    the second half of either: what ZeRO-1 adds, for the weights

tfllm's step reduces once, after the backward pass: nothing overlaps unless an overlap is given. The
overlapping part is hidden by the backward pass, which is two thirds of the compute.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Accelerators in nodes, and the links between them. Bandwidths are in one direction."""

    flops: float = 312e12
    """peak FLOP/s of an accelerator"""
    utilization: float = 0.4
    """fraction of the peak that a step without communication reaches"""
    per_node: int = 8
    """number of accelerators in a node"""
    intra_bandwidth: float = 300e9
    """bytes/s from an accelerator to the others of its node"""
    inter_bandwidth: float = 50e9
    """bytes/s from a node to the other nodes, over all its network cards"""
    intra_latency: float = 5e-6
    """latency of a message within a node, in seconds"""
    inter_latency: float = 15e-6
    """latency of a message between nodes, in seconds"""
    memory: float = 80e9
    """memory of an accelerator, in bytes"""
    copy_bandwidth: float = 10e9
    """bytes/s from an accelerator to its host, for a checkpoint"""
    checkpoint_bandwidth: float = 2e9
    """bytes/s from the worker that writes checkpoints to their storage"""


@dataclass(frozen=True)
class Work:
    """What one accelerator does in a step."""

    parameters: float
    """number of parameters of the model"""
    flops: float
    """floating-point operations of one accelerator in a step, forward and backward"""
    gradient_bytes: float
    """size of each accelerator's gradients, which are reduced"""
    tokens: float
    """number of tokens of one accelerator in a step"""
    overlap: float = 0.0
    """fraction of the all-reduce that runs during the backward pass"""
    zero1: bool = False
    """optimizer state is sharded: the weights are gathered after the update"""
    checkpoint_every: float = 1000
    """number of steps between checkpoints; infinite for none"""
    algorithm: str = "best"
    """algorithm of the all-reduce: "ring", "hierarchical", or "best" for the faster of the two"""


@dataclass(frozen=True)
class Step:
    """Seconds of a step on `accelerators`, and what follows from them."""

    accelerators: int
    compute: float
    all_reduce: float
    """time of the whole all-reduce"""
    exposed: float
    """time of the part of the all-reduce that does not overlap"""
    all_gather: float
    checkpoint: float
    """time of checkpoints, averaged over the steps"""
    tokens: float
    """number of tokens of all accelerators"""

    @property
    def communication(self) -> float:
        return self.exposed + self.all_gather

    @property
    def seconds(self) -> float:
        return self.compute + self.communication + self.checkpoint

    @property
    def efficiency(self) -> float:
        """Tokens per second of an accelerator, relative to a single accelerator."""
        return (self.compute + self.checkpoint) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def ring_bytes(size: float, accelerators: int) -> float:
    """Bytes that each accelerator sends in a ring all-reduce of `size` bytes."""
    return 2 * (accelerators - 1) / accelerators * size


def one_way_seconds(size: float, accelerators: int, cluster: Cluster, algorithm: str) -> float:
    """Seconds of a reduce-scatter or an all-gather of `size` bytes: half an all-reduce."""
    if accelerators == 1:
        return 0.0
    within = min(accelerators, cluster.per_node)
    nodes = math.ceil(accelerators / cluster.per_node)

    def ring(members: int, latency: float, bandwidth: float) -> float:
        return (members - 1) * (latency + size / members / bandwidth)

    inside = ring(within, cluster.intra_latency, cluster.intra_bandwidth)
    if nodes == 1:
        return inside
    slowest = min(cluster.intra_bandwidth, cluster.inter_bandwidth)
    latency = max(cluster.intra_latency, cluster.inter_latency)
    costs = {
        "ring": ring(accelerators, latency, slowest),
        "hierarchical": inside + ring(nodes, cluster.inter_latency, cluster.inter_bandwidth),
    }
    return min(costs.values()) if algorithm == "best" else costs[algorithm]


def simulate(work: Work, accelerators: int, cluster: Cluster) -> Step:
    """One step of synchronous data parallelism."""
    compute = work.flops / (cluster.flops * cluster.utilization)
    gradients, weights = work.gradient_bytes, 4 * work.parameters
    all_reduce = 2 * one_way_seconds(gradients, accelerators, cluster, work.algorithm)
    hidden = min(work.overlap * all_reduce, 2 / 3 * compute)
    gather = one_way_seconds(weights, accelerators, cluster, work.algorithm) if work.zero1 else 0.0
    step = Step(
        accelerators, compute, all_reduce, all_reduce - hidden, gather, 0.0,
        work.tokens * accelerators,
    )  # fmt: skip
    # All wait while the writing worker copies weights and moments to its host; writing happens in
    # the background, and stalls only if it takes longer than the steps between two checkpoints.
    state = 12 * work.parameters
    spare = work.checkpoint_every * step.seconds
    late = max(0.0, state / cluster.checkpoint_bandwidth - spare)
    stall = (state / cluster.copy_bandwidth + late) / work.checkpoint_every
    return dataclasses.replace(step, checkpoint=stall)


def tokens_for(efficiency: float, work: Work, accelerators: int, cluster: Cluster) -> float:
    """Tokens per accelerator and step that an efficiency needs, without overlap."""
    step = simulate(dataclasses.replace(work, overlap=0.0), accelerators, cluster)
    needed = step.communication / (1 / efficiency - 1) - step.checkpoint
    return max(0.0, needed / step.compute * work.tokens)


def state_bytes(work: Work, accelerators: int) -> float:
    """Bytes of an accelerator's float32 weights, gradients and AdamW moments; no activations."""
    return work.parameters * (8 + 8 / (accelerators if work.zero1 else 1))
