"""The figures of a run, each defined once here for the terminal, the report and its charts.

They are computed from the run's folder, so that anyone with metrics.jsonl can reproduce them. This
module does not import TensorFlow.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from tfllm.charts.run_logs import RunLog, number, read_runs

_PARTS = {
    "tracing": "tracing_seconds",
    "input": "input_seconds",
    "compute": "compute_seconds",
    "checkpoints": "checkpoint_seconds",
    "validation": "validation_seconds",
}


@dataclass(frozen=True)
class RunFigures:
    """The results of a run so far, over all processes that worked on it.

    Values that its log does not contain are None.
    """

    tokens_per_second: float | None
    """tokens divided by the time of their steps (waiting for data and computing), without the first
    step of a process, which traces the graph"""
    flops_utilization: float | None
    """model FLOPs utilization (MFU) at that speed: the share of the FLOP/s of a matrix product
    measured at the start, or of the run's own fastest stretch if that was faster"""
    seconds: float | None
    """time from when the model exists to the last step, its validation and checkpoint"""
    time_parts: dict[str, float]
    """seconds of each part, which add up to `seconds`: "tracing" the graph, "input" (waiting for
    data), "compute", "checkpoints", "validation", and "other": logs, callbacks, other workers"""
    validation_loss: float | None
    """the lowest one"""
    validation_perplexity: float | None
    """exp of the loss, at most about 1e38; None if the loss is not of tokens"""
    peak_memory: float | None
    """maximum number of bytes in the log"""
    skipped_steps: float | None
    """number of updates that were skipped with float16"""

    @property
    def time_shares(self) -> dict[str, float]:
        """The share of each part; empty if unknown."""
        if not self.seconds:
            return {}
        return {name: part / self.seconds for name, part in self.time_parts.items()}


def figures(run: RunLog) -> RunFigures:
    """Compute the figures of a run from its log."""
    totals = run.totals
    seconds = totals.get("seconds")
    parts = {name: totals[key] for name, key in _PARTS.items() if key in totals}
    if seconds is not None and parts:
        parts["other"] = max(seconds - sum(parts.values()), 0.0)
    worked = totals.get("input_seconds", 0.0) + totals.get("compute_seconds", 0.0)
    if worked and "timed_tokens" in totals and "peak_seconds" in totals:
        rate: float | None = totals["timed_tokens"] / worked
        utilization: float | None = min(totals["peak_seconds"] / worked, 1.0)
    else:  # written by an older version, or only one step
        rate = _median(run, "tokens_per_second")
        utilization = _median(run, "flops_utilization")
    loss = _best_loss(run)
    perplexity = None
    if loss is not None and _is_log_loss(run):
        perplexity = math.exp(min(loss, 88.0))
    return RunFigures(
        tokens_per_second=rate,
        flops_utilization=utilization,
        seconds=seconds,
        time_parts={} if seconds is None else parts,
        validation_loss=loss,
        validation_perplexity=perplexity,
        peak_memory=max(run.series("memory_bytes", "step")[1], default=None),
        skipped_steps=run.last("skipped_steps"),
    )


def figures_of(folder: str | Path) -> RunFigures:
    """Compute the figures of the run in a folder.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If it has not logged a step.
    """
    return figures(read_runs([folder])[0])


def _median(run: RunLog, key: str) -> float | None:
    values = run.series(key, "step")[1]
    return statistics.median(values) if values else number(run.section("result").get(key))


def _best_loss(run: RunLog) -> float | None:
    recorded = number(run.section("result").get("validation_loss"))
    losses = run.series("validation_loss", "step")[1]
    return min([*losses, *([] if recorded is None else [recorded])], default=None)


def _is_log_loss(run: RunLog) -> bool:
    """Whether its loss is a mean of negative log-probabilities, so that it has a perplexity."""
    result = run.section("result")
    if result.get("validation_loss") is not None:
        return result.get("validation_perplexity", math.nan) is not None
    shown = [line for line in run.validations if "validation_perplexity" in line]
    return bool(shown) or "task" not in run.settings
