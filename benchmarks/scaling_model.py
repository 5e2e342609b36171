"""A cost model of synchronous data parallelism: what a step takes on many accelerators.

Compute is FLOPs / (peak x utilisation). A message of s bytes costs latency + s / bandwidth
(Hockney, 1994). With n accelerators, g in a node, m = n / g nodes and S bytes:

    ring          2 (n - 1) (latency + S / (n bandwidth)), at the slowest link's latency and
                  bandwidth (Patarasuk & Yuan, 2009)
    hierarchical  reduce-scatter in the node, (g - 1) (latency + S / (g bandwidth)); a ring over
                  the nodes for each of the g parts, which share the node's network:
                  2 (m - 1) (latency + S / (m bandwidth)); all-gather in the node, as the first
                  (Jia et al., 2018; Cho et al., BlueConnect, 2019)
    all-gather    the second half of either: what ZeRO-1 adds, for the weights

The step, as tfllm writes it, reduces once, behind the backward pass: nothing overlaps unless that
is asked for. What overlaps hides behind the backward pass, two thirds of the compute.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Accelerators in nodes, and what connects them. Bandwidths are in one direction."""

    flops: float = 312e12
    """FLOP/s of an accelerator, at its peak"""
    utilization: float = 0.4
    """share of it that a step without communication reaches"""
    per_node: int = 8
    """accelerators in a node"""
    intra_bandwidth: float = 300e9
    """bytes/s of an accelerator to the others of its node"""
    inter_bandwidth: float = 50e9
    """bytes/s of a node to the other nodes, over all its network cards"""
    intra_latency: float = 5e-6
    """seconds of a message in a node"""
    inter_latency: float = 15e-6
    """seconds of a message between nodes"""
    memory: float = 80e9
    """bytes of an accelerator"""
    copy_bandwidth: float = 10e9
    """bytes/s from an accelerator to its host, for a checkpoint"""
    checkpoint_bandwidth: float = 2e9
    """bytes/s to the storage of checkpoints, from the one worker that writes"""


@dataclass(frozen=True)
class Work:
    """What one accelerator does in a step."""

    parameters: float
    flops: float
    """of one accelerator in a step, forward and backward"""
    gradient_bytes: float
    """of each accelerator's gradients: what is reduced"""
    tokens: float
    """of one accelerator in a step"""
    overlap: float = 0.0
    """share of the all-reduce that runs during the backward pass"""
    zero1: bool = False
    """optimizer state shared out: the weights are gathered after the update"""
    checkpoint_every: float = 1000
    """steps; infinite for none"""
    algorithm: str = "best"
    """ring, hierarchical, or the faster of the two"""


@dataclass(frozen=True)
class Step:
    """Seconds of a step on `accelerators`, and what follows from them."""

    accelerators: int
    compute: float
    all_reduce: float
    """the whole of it"""
    exposed: float
    """what of the all-reduce does not overlap"""
    all_gather: float
    checkpoint: float
    """its share in a step"""
    tokens: float
    """of all accelerators"""

    @property
    def communication(self) -> float:
        return self.exposed + self.all_gather

    @property
    def seconds(self) -> float:
        return self.compute + self.communication + self.checkpoint

    @property
    def efficiency(self) -> float:
        """Tokens a second of an accelerator, compared with those of a single one."""
        return (self.compute + self.checkpoint) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def ring_bytes(size: float, accelerators: int) -> float:
    """What each accelerator sends in a ring all-reduce of `size` bytes."""
    return 2 * (accelerators - 1) / accelerators * size


def one_way_seconds(size: float, accelerators: int, cluster: Cluster, algorithm: str) -> float:
    """A reduce-scatter, or an all-gather, of `size` bytes: half an all-reduce."""
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
    # All wait while the writing worker copies weights and moments to its host; the rest is in the
    # background, and stalls only where it takes longer than the steps between two checkpoints.
    state = 12 * work.parameters
    spare = work.checkpoint_every * step.seconds
    late = max(0.0, state / cluster.checkpoint_bandwidth - spare)
    stall = (state / cluster.copy_bandwidth + late) / work.checkpoint_every
    return dataclasses.replace(step, checkpoint=stall)


def tokens_for(efficiency: float, work: Work, accelerators: int, cluster: Cluster) -> float:
    """Tokens an accelerator must have in a step to reach an efficiency, without overlap."""
    step = simulate(dataclasses.replace(work, overlap=0.0), accelerators, cluster)
    needed = step.communication / (1 / efficiency - 1) - step.checkpoint
    return max(0.0, needed / step.compute * work.tokens)


def state_bytes(work: Work, accelerators: int) -> float:
    """Weights, gradients and AdamW's moments of an accelerator, float32; no activations."""
    return work.parameters * (8 + 8 / (accelerators if work.zero1 else 1))
