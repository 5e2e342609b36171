"""Throughput, time and memory of a run."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf


class Throughput:
    """Counts the tokens and seconds of one process of a run, by a monotonic clock.

    The logs contain the totals (`totals`), from which `run_figures` computes all figures of a run.

    Args:
        tokens_per_step: tokens in a batch of all replicas.
        replicas: number of replicas that share the batch.
        flops_per_token: FLOPs that training needs per token.
        peak: FLOP/s of all replicas together, as measured at the start. If the run is faster for a
            while (because the machine was busy before), that becomes the peak.
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
        """tokens of the steps whose time is counted as input and compute"""
        self._start = time.perf_counter()
        self._stretch_tokens, self._stretch_seconds = 0, 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of input and compute; 0 before the first timed step."""
        seconds = self.seconds["input"] + self.seconds["compute"]
        return self.timed_tokens / seconds if seconds else 0.0

    @property
    def flops_utilization(self) -> float:
        """Model FLOPs utilization (MFU): fraction of the peak at that speed."""
        return min(self.tokens_per_second * self.flops_per_token / self.peak, 1.0)

    @property
    def shares(self) -> dict[str, float]:
        """Fractions of this process' time so far by kind; empty before the first step."""
        total = time.perf_counter() - self._start
        known = {kind: s / total for kind, s in self.seconds.items()}
        return {**known, "other": max(1 - sum(known.values()), 0.0)} if self._has_steps else {}

    @property
    def _has_steps(self) -> bool:
        return bool(self.seconds["tracing"] or self.timed_tokens)

    def count_step(self, steps: int, seconds: float, input_seconds: float) -> dict[str, float]:
        """Count a call of the training function.

        Args:
            steps: number of steps of the call.
            seconds: duration of the call.
            input_seconds: the part of it spent waiting for data.

        Returns:
            Rates since the last line of the logs.
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
        """Reset the rates, after a line of the logs was written."""
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
        """Totals since the start of this process, for the logs."""
        return {
            "seconds": time.perf_counter() - self._start,
            **{f"{kind}_seconds": seconds for kind, seconds in self.seconds.items()},
            "timed_tokens": float(self.timed_tokens),
            # Time of the timed tokens at the peak; divided by input and compute: the utilization.
            "peak_seconds": self.timed_tokens * self.flops_per_token / self.peak,
            "memory_bytes": float(memory_bytes()),
        }


PARTS = ("tracing", "input", "compute", "checkpoint", "validation")
"""kinds of time, which add up to the seconds of a run together with "other" """


def memory_bytes() -> int:
    """Bytes in use on the first GPU; without a GPU, the resident memory of this process, or its
    peak where the system does not report the present value."""
    if tf.config.list_logical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["current"])
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_memory() -> int | None:
    """Bytes that TensorFlow may use on the first GPU; None without a GPU."""
    if not tf.config.list_logical_devices("GPU"):
        return None
    from tensorflow.python.client import device_lib  # no public function gives a GPU's memory

    found = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
    return int(found[0]) if found else None
