"""Where a run's time and memory go."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf


class Throughput:
    """Counts tokens and seconds of one process' part of a run, by a clock that never jumps.

    The logs have the sums (`totals`), from which `run_figures` makes every figure of a run.

    Args:
        tokens_per_step: in a batch of all replicas.
        replicas: that share it.
        flops_per_token: of the model.
        peak: FLOP/s that all replicas together can do, as measured at the start. Where the run
            itself was faster for a stretch (the machine was busy before), that is the peak.
    """

    def __init__(
        self, tokens_per_step: int, replicas: int, flops_per_token: float, peak: float
    ) -> None:
        self.tokens_per_step = tokens_per_step
        self.replicas = replicas
        self.flops_per_token = flops_per_token
        self.peak = peak
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.timed_tokens = 0
        """of the steps whose seconds are input and compute"""
        self._start = time.perf_counter()
        self._stretch_tokens, self._stretch_seconds = 0, 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the seconds of their steps, input and compute; 0 before any."""
        seconds = self.seconds["input"] + self.seconds["compute"]
        return self.timed_tokens / seconds if seconds else 0.0

    @property
    def flops_utilization(self) -> float:
        """Share of the peak (MFU) at that speed."""
        return min(self.tokens_per_second * self.flops_per_token / self.peak, 1.0)

    @property
    def shares(self) -> dict[str, float]:
        """Of this process' time so far, by kind and "other"; empty before the first step."""
        total = time.perf_counter() - self._start
        known = {kind: s / total for kind, s in self.seconds.items()}
        return {**known, "other": max(1 - sum(known.values()), 0.0)} if self._has_steps else {}

    @property
    def _has_steps(self) -> bool:
        return bool(self.seconds["tracing"] or self.timed_tokens)

    def count_step(self, steps: int, seconds: float, input_seconds: float) -> dict[str, float]:
        """Count a call of the training function; the rates since the last line of the logs.

        Args:
            steps: that the call made.
            seconds: that it took.
            input_seconds: that it waited for data, a part of these.
        """
        waited = min(input_seconds, seconds)
        self.seconds["input"] += waited
        self.seconds["compute"] += seconds - waited
        self.timed_tokens += steps * self.tokens_per_step
        self._stretch_tokens += steps * self.tokens_per_step
        self._stretch_seconds += seconds
        rate = self._stretch_tokens / self._stretch_seconds
        return {
            "tokens_per_second": rate,
            "tokens_per_second_per_replica": rate / self.replicas,
            "flops_utilization": min(rate * self.flops_per_token / self.peak, 1.0),
        }

    def count_tracing(self, seconds: float) -> None:
        """Count the first call of the training function, which traces and compiles the graph."""
        self.seconds["tracing"] += seconds

    def begin_stretch(self) -> None:
        """A line of the logs is written: the rates of the next begin anew."""
        if self._stretch_seconds:
            rate = self._stretch_tokens / self._stretch_seconds
            self.peak = max(self.peak, rate * self.flops_per_token)
        self._stretch_tokens, self._stretch_seconds = 0, 0.0

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
            "timed_tokens": float(self.timed_tokens),
            # What the timed tokens would take at the peak: over input and compute, the utilisation.
            "peak_seconds": self.timed_tokens * self.flops_per_token / self.peak,
            "memory_bytes": float(memory_bytes()),
        }


PARTS = ("tracing", "input", "compute", "checkpoint", "validation")
"""of the time of a run, which add up to its seconds together with "other" """


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


def device_memory() -> int | None:
    """The memory that TensorFlow may have on the first GPU; None without one."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    from tensorflow.python.client import device_lib  # what a GPU has, nothing public tells

    found = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
    return int(found[0]) if found else None
