"""The tables of a report: results of the runs, and settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfllm.charts.number_format import (
    duration,
    memory_size,
    percentage,
    perplexity,
    quantity,
)
from tfllm.charts.run_figures import figures
from tfllm.charts.run_logs import RunLog
from tfllm.config import ConfigError, ModelConfig, build
from tfllm.models.parameter_count import num_parameters

NOTHING = "–"
"""cell of a table whose value is not in the run's log"""

Table = dict[str, list[str]]
"""maps a row's name to its cells, one per run"""


def comparison(runs: Sequence[RunLog]) -> Table:
    """The results of each run; rows that are empty for all runs are left out."""
    found = [figures(run) for run in runs]
    rows: Table = {
        "state": [_state(run) for run in runs],
        "parameters": [_text(_parameters(run), quantity) for run in runs],
        "precision": [_text(run.section("training").get("precision")) for run in runs],
        "replicas": [_text(run.num_replicas) for run in runs],
        "workers": [_text(run.section("result").get("workers")) for run in runs],
        "steps": [_text(_furthest(run, "step"), lambda n: f"{n:,.0f}") for run in runs],
        "tokens": [_text(_furthest(run, "tokens"), quantity) for run in runs],
        "best validation loss": [_text(f.validation_loss, "{:.4f}".format) for f in found],
        "best validation perplexity": [_text(f.validation_perplexity, perplexity) for f in found],
        "tokens/s": [_text(f.tokens_per_second, quantity) for f in found],
        "FLOPs utilisation": [_text(f.flops_utilization, percentage) for f in found],
        "time": [_text(f.seconds, duration) for f in found],
    }
    shares = [f.time_shares for f in found]
    for part in dict.fromkeys(part for share in shares for part in share):
        rows[f"of which: {part}"] = [_text(share.get(part), percentage) for share in shares]
    rows |= {
        "peak memory": [_text(f.peak_memory, memory_size) for f in found],
        "skipped steps": [_text(f.skipped_steps, lambda n: f"{n:,.0f}") for f in found],
    }
    return {name: cells for name, cells in rows.items() if set(cells) != {NOTHING}}


def differences(runs: Sequence[RunLog]) -> Table:
    """The settings in which the runs differ; runs whose settings are unknown do not count."""
    known = [run for run in runs if run.settings]
    flat = [_flat(run) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows: Table = {}
    for name in names:
        values = [settings.get(name, NOTHING) for settings in flat]
        if len({v for v, run in zip(values, runs, strict=True) if run in known}) > 1:
            rows[name] = values
    # The same text may be in different folders, and different texts in the same folder.
    digests = rows.pop("data.digest", None)
    rows.pop("data.notes", None)
    if digests is None:
        rows.pop("data.folder", None)
    elif "data.folder" not in rows:
        rows["data.digest"] = [digest[:12] for digest in digests]
    return rows


def _flat(run: RunLog) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in run.settings.items():
        if name == "result":
            continue
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": _setting(inner) for key, inner in value.items()}
        else:
            flat[name] = _setting(value)
    return flat


def _setting(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _state(run: RunLog) -> str:
    resumed = f", resumed {run.starts - 1}x" if run.starts > 1 else ""
    if run.finished:
        return "finished" + resumed
    total = run.section("training").get("steps")
    done = _furthest(run, "step")
    share = f" ({percentage(done / total)})" if done and isinstance(total, int) and total else ""
    return f"not finished{share}{resumed}"


def _furthest(run: RunLog, key: str) -> float | None:
    return max((line[key] for line in [*run.steps, *run.validations] if key in line), default=None)


def _parameters(run: RunLog) -> int | None:
    try:
        return num_parameters(build(ModelConfig, run.section("model")))
    except (ConfigError, TypeError):  # written by another version, or missing
        return None


def _text(value: Any, shown: Any = str) -> str:
    return NOTHING if value is None else shown(value)
