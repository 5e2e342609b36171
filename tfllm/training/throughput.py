"""Where a run's time and memory go."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf


class Throughput:
    """Counts tokens and seconds of one process' part of a run, by a clock that never jumps.

    Args:
        tokens_per_step: in a batch of all replicas.
        replicas: that share it.
        flops_per_token: of the model.
        peak: FLOP/s that all replicas together can do.
    """

    def __init__(
        self, tokens_per_step: int, replicas: int, flops_per_token: float, peak: float
    ) -> None:
        self.tokens_per_step = tokens_per_step
        self.replicas = replicas
        self.flops_per_token = flops_per_token
        self.peak = peak
        self.seconds = {"input": 0.0, "compute": 0.0, "checkpoint": 0.0, "validation": 0.0}
        self._start = time.perf_counter()
        self._rates: list[float] = []

    @property
    def tokens_per_second(self) -> float:
        """The median over the steps so far, without validation and checkpoints; 0 without any."""
        return statistics.median(self._rates) if self._rates else 0.0

    @property
    def flops_utilization(self) -> float:
        """Share of the measured peak (MFU) at the median speed."""
        return self.tokens_per_second * self.flops_per_token / self.peak

    @property
    def shares(self) -> dict[str, float]:
        """Of the time that was counted, by kind; empty before the first step."""
        total = sum(self.seconds.values())
        return {kind: s / total for kind, s in self.seconds.items()} if total else {}

    def count_step(self, steps: int, seconds: float, input_seconds: float) -> dict[str, float]:
        """Count a call of the training function; the values that the logs have of it.

        Args:
            steps: that the call made.
            seconds: that it took.
            input_seconds: that it waited for data, a part of these.
        """
        self.seconds["input"] += input_seconds
        self.seconds["compute"] += max(seconds - input_seconds, 0.0)
        rate = steps * self.tokens_per_step / seconds
        self._rates.append(rate)
        return {
            "tokens_per_second": rate,
            "tokens_per_second_per_replica": rate / self.replicas,
            "flops_utilization": rate * self.flops_per_token / self.peak,
        }

    @contextmanager
    def counted(self, kind: str) -> Iterator[None]:
        """Count the block's time as "checkpoint" or "validation"."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def totals(self) -> dict[str, float]:
        """Sums since the start of this process' part, for the logs."""
        return {
            "seconds": time.perf_counter() - self._start,
            **{f"{kind}_seconds": seconds for kind, seconds in self.seconds.items()},
            "memory_bytes": float(memory_bytes()),
        }


def memory_bytes() -> int:
    """Memory in use on the first GPU; without one, this process' resident memory, or where the
    system does not tell that, the most it ever was."""
    if tf.config.list_logical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["current"])
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
