"""Check before a run that enough memory is available."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from tfllm.charts.number_format import memory_size
from tfllm.config import ConfigError, TrainingConfig
from tfllm.training.memory_estimate import MemoryEstimate, estimate_memory, settings_that_fit

_SURE = 0.75
"""An estimate may be a quarter too high: a run that would not fit even then is refused."""
_NEAR = 0.9
"""fraction of the available memory above which a warning is given"""


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
    """Estimate the memory that a run needs, and refuse a run that needs clearly too much.

    Args:
        model: as in `estimate_memory`.
        training: settings of the run; with `memory_check` "warn" no run is refused, with "off"
            the available memory is not checked.
        rows: rows of a micro-batch on one replica.
        replicas: number of replicas in all processes.
        replicas_here: number of replicas in this process, which share its memory on a CPU.
        sequences_per_row: number of sequences in a row: 2 for a pair of replies.
        device_memory: memory of an accelerator in bytes; None: the replicas use the process'
            memory.
        verbose: whether to print the estimate.

    Returns:
        The estimate for one replica.

    Raises:
        ConfigError: the run needs clearly more memory than is available.
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
    message = (
        f"this run needs {estimate.describe()}"
        + (f", in each of {copies} replicas" if copies > 1 else "")
        + f"; the memory {where} is {memory_size(available)}. {advice}"
    )
    if _SURE * needed > available and training.memory_check == "refuse":
        raise ConfigError(f"{message}, or give memory_check=warn to try it all the same")
    warnings.warn(message, stacklevel=2)
    return estimate


def advised(settings: dict[str, Any]) -> str:
    """A sentence that recommends settings with which a run fits."""
    if not settings:
        return "No number of micro-batches and no shorter rows make it fit: use a smaller model"
    given = " ".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in settings.items()
    )
    return f"It would fit with {given}"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may use in all; None if the system does not tell.

    This is the memory that the process uses already, plus the smaller of the memory available on
    the system and what is left of the limit of its control group.

    Args:
        root: root of the file system, for tests.
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
    """The folders of the process' control group and of those that contain it."""
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
    """The number in a file; None if it cannot be read or is not a number, such as "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(group: Path) -> int:
    """Bytes of cached file pages, which the system can reclaim."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.split()[0] == "inactive_file")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
