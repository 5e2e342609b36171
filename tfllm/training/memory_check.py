"""Whether a run's memory is there, before it is needed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from tfllm.charts.number_format import memory_size
from tfllm.config import ConfigError, TrainingConfig
from tfllm.training.memory_estimate import MemoryEstimate, estimate_memory, settings_that_fit

_SURE = 0.75
"""An estimate may be a quarter too high: what would not fit even then is refused."""
_NEAR = 0.9
"""of what is available: above it there is a warning"""


def check_memory(
    model: Any,
    training: TrainingConfig,
    *,
    rows: int,
    replicas: int = 1,
    replicas_here: int = 1,
    sequences_per_row: int = 1,
    device_memory: int | None = None,
    verbose: bool = False,
) -> MemoryEstimate:
    """Say what memory a run takes, and refuse one that cannot have it.

    Args:
        model: as of `estimate_memory`.
        training: settings of the run; with `memory_check` "warn" nothing is refused, with "off"
            nothing is looked at.
        rows: of a micro-batch on one replica.
        replicas: of all processes.
        replicas_here: of this process, which share its memory where they are no devices.
        sequences_per_row: 2 where a row is a pair of replies.
        device_memory: bytes of an accelerator; None: the process' memory counts.
        verbose: print the estimate.

    Raises:
        ConfigError: the run takes clearly more than there is.
    """
    on_cpu = device_memory is None
    estimate = estimate_memory(
        model, training, rows=rows * sequences_per_row, on_cpu=on_cpu, replicas=replicas
    )
    if training.memory_check == "off":
        return estimate
    if verbose:
        print(f"estimate: {estimate.describe()}", file=sys.stderr)
    available = available_memory() if on_cpu else device_memory
    if available is None:
        return estimate
    copies = replicas_here if on_cpu else 1
    needed = (estimate.total - estimate.process) * copies + estimate.process
    if needed <= _NEAR * available:
        return estimate
    room = (_NEAR * available - estimate.process) / copies + estimate.process
    advice = advised(
        settings_that_fit(
            model,
            training,
            room,
            replicas=replicas,
            sequences_per_row=sequences_per_row,
            on_cpu=on_cpu,
        )
    )
    where = "of this process" if on_cpu else "of the device"
    told = (
        f"this run takes {estimate.describe()}"
        + (f", in each of {copies} replicas" if copies > 1 else "")
        + f"; the memory {where} is {memory_size(available)}. {advice}"
    )
    if _SURE * needed > available and training.memory_check == "refuse":
        raise ConfigError(f"{told}, or memory_check=warn to try it all the same")
    warnings.warn(told, stacklevel=2)
    return estimate


def advised(settings: dict[str, Any]) -> str:
    """What is said of settings with which a run fits."""
    if not settings:
        return "No number of micro-batches or shorter rows make it fit: take a smaller model"
    given = " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )
    return f"It would fit with {given}"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may have in all; None where the system does not tell.

    What the system has available, or what is left of the control group's limit if that is less, and
    what the process has already.

    Args:
        root: of the file system, for tests.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
        status = (root / "proc/self/status").read_text()
        own = next(int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("VmRSS:"))
        left = values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError, StopIteration):
        return None
    for group in _control_groups(root):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < values.get("MemTotal", limit + 1):
            left = min(left, limit - used + _reclaimable(group))
    return max(left, 0) + own


def _control_groups(root: Path) -> list[Path]:
    """The folders of the process' own control group and those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root / "sys/fs/cgroup"
        if number != "0":
            if "memory" not in controllers.split(","):
                continue
            base = base / "memory"
        place = base / path.lstrip("/")
        while True:
            found.append(place)
            if place == base or base not in place.parents:
                break
            place = place.parent
    return found


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, such as "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(group: Path) -> int:
    """Pages of files, which the system gives back."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.split()[0] == "inactive_file")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
