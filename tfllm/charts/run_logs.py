"""Read a run's folder, in whatever state the run is. This module does not import TensorFlow."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tfllm.files import read_json

XAxis = Literal["tokens", "step", "seconds"]

_SUMS = (
    *("seconds", "tracing_seconds", "input_seconds", "compute_seconds"),
    *("checkpoint_seconds", "validation_seconds", "timed_tokens"),
)
"""Sums that start at 0 in each process that works on a run, and never decrease within one."""
_OTHER_SUMS = ("peak_seconds",)
"""Sums that also start at 0, but may decrease: a higher peak that is found later lowers them."""


@dataclass
class RunLog:
    """The settings and the log of a run, read by `read_runs`.

    Missing, damaged or non-finite numbers in the log are missing here. `seconds` and the other sums
    continue where the log starts them again: they count all processes that worked on the run.
    """

    path: Path
    """the run's folder"""
    name: str
    """shortest end of the path that no other run of the report has"""
    settings: dict[str, Any] = field(default_factory=dict)
    """contents of run.json"""
    steps: list[dict[str, float]] = field(default_factory=list)
    """lines about steps, in order"""
    totals: dict[str, float] = field(default_factory=dict)
    """sums at the end of the log, which repeats them after the last validation"""
    validations: list[dict[str, float]] = field(default_factory=list)
    """lines about validations, with the `seconds` of the step before each"""
    starts: int = 0
    """number of processes that logged steps: one, and one for each time the run was resumed"""
    notes: list[str] = field(default_factory=list)
    """what could not be read, and what was left out of the data"""

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return bool(self.section("result"))

    def section(self, name: str) -> dict[str, Any]:
        """A part of run.json, such as "training"; empty if missing."""
        found = self.settings.get(name)
        return found if isinstance(found, dict) else {}

    def series(self, key: str, x: XAxis = "tokens") -> tuple[list[float], list[float]]:
        """The x values and the values of `key`, where the log has both."""
        lines = self.validations if key.startswith("validation_") else self.steps
        pairs = [(line[x], line[key]) for line in lines if x in line and key in line]
        return [place for place, _ in pairs], [value for _, value in pairs]

    def last(self, key: str) -> float | None:
        """The last value of `key` in the lines about steps."""
        return next((line[key] for line in reversed(self.steps) if key in line), None)

    @property
    def num_replicas(self) -> int | None:
        """The number of replicas that trained together, from the throughput of each."""
        lines = self.steps
        rates = ("tokens_per_second", "tokens_per_second_per_replica")
        ratios = [
            a[rates[0]] / a[rates[1]] for a in lines if a.keys() >= set(rates) and a[rates[1]]
        ]
        return round(statistics.median(ratios)) if ratios else None


def read_runs(paths: Sequence[str | Path]) -> list[RunLog]:
    """Read the folders of several runs; one that is named twice is read once.

    Args:
        paths: Folders that `tfllm train --out` wrote.

    Raises:
        FileNotFoundError: If a folder contains no run.
        ValueError: If no folder is given, or none of the runs has logged a step.
    """
    given = {Path(path).resolve(): Path(path) for path in paths}
    if not given:
        raise ValueError("a report needs the folder of at least one run; received none")
    names = _names(list(given))
    runs = [_read(path, name) for path, name in zip(given.values(), names, strict=True)]
    if not any(run.steps or run.validations for run in runs):
        shown = ", ".join(str(run.path) for run in runs)
        raise ValueError(
            f"none of the runs has logged a step yet: {shown}; wait for the first ones"
        )
    return runs


def _read(folder: Path, name: str) -> RunLog:
    log = folder / "metrics.jsonl"
    if not log.is_file() and not (folder / "run.json").is_file():
        raise FileNotFoundError(
            f"there is no run in {folder}: it has neither metrics.jsonl nor run.json; "
            "give the folder that `tfllm train --out` wrote"
        )
    run = RunLog(folder, name)
    try:
        found = read_json(folder / "run.json")
        run.settings = found if isinstance(found, dict) else {}
    except FileNotFoundError:
        run.notes.append("it has no run.json, so its settings are unknown")
    except (OSError, ValueError) as error:
        run.notes.append(f"{error}, so its settings are unknown")
    about_data = run.section("data").get("notes")
    if isinstance(about_data, list):
        run.notes += [f"its data: {note}" for note in about_data]
    lines, damaged = _lines(log)
    if damaged:
        lost = "1 line" if damaged == 1 else f"{damaged} lines"
        run.notes.append(f"{lost} of its metrics.jsonl could not be read")
    if not lines:
        run.notes.append("it has logged no step yet")
    lines = _without_what_was_done_again(lines)
    lines, run.starts, run.totals = _added_up(lines)
    run.validations = [line for line in lines if "validation_loss" in line]
    run.steps = [line for line in lines if not _is_end(line) and "validation_loss" not in line]
    return run


def _is_end(line: dict[str, float]) -> bool:
    """Whether a line only has the sums, as at the end of each process' part."""
    return "timed_tokens" in line and "loss" not in line and "learning_rate" not in line


def _lines(path: Path) -> tuple[list[dict[str, float]], int]:
    """The numbers of each line, and how many lines could not be read."""
    lines, damaged = [], 0
    if not path.is_file():
        return [], 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                values = json.loads(text)
                line = {k: number(v) for k, v in values.items()}
            except (ValueError, AttributeError, RecursionError):
                damaged += bool(text.strip())
                continue
            known = {key: value for key, value in line.items() if value is not None}
            if "step" in known:
                lines.append(known)
            else:
                damaged += 1
    return lines, damaged


def _without_what_was_done_again(lines: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Drop lines that a run repeated after going back to a checkpoint; the later ones count."""
    kept: list[dict[str, float]] = []
    for line in lines:
        # A validation comes after the line of its step, and the sums after both.
        last = line["step"] + (0.5 if "validation_loss" in line else 0.75 if _is_end(line) else 0)
        while kept and kept[-1]["step"] >= last:
            kept.pop()
        kept.append(line)
    return kept


def _added_up(
    lines: list[dict[str, float]],
) -> tuple[list[dict[str, float]], int, dict[str, float]]:
    """The lines with sums that continue over all starts, the number of starts, and the sums."""
    names = (*_SUMS, *_OTHER_SUMS)
    before = dict.fromkeys(names, 0.0)
    latest: dict[str, float] = {}
    added, starts = [], 0
    for line in lines:
        if "validation_loss" in line:  # has no sums of its own
            now = {"seconds": before["seconds"] + latest["seconds"]} if "seconds" in latest else {}
            added.append({**line, **now})
            continue
        if not starts or any(line[n] < latest[n] for n in _SUMS if n in line and n in latest):
            starts += 1
            for name in names:
                before[name] += latest.get(name, 0.0)
            latest = {}
        sums = {name: line[name] for name in names if name in line}
        latest |= sums
        added.append({**line, **{name: before[name] + value for name, value in sums.items()}})
    return added, starts, {name: before[name] + value for name, value in latest.items()}


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond float's range
        return None


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ from each other."""
    parts = [folder.parts for folder in folders]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and any(
            other != own and other[-length:] == own[-length:] for other in parts
        ):
            length += 1
        names.append(str(Path(*own[-length:])))
    return names
