"""The memory limits and start-up times in the deployment files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfllm.serving.footprint import Footprint, footprint

MARGIN = 1.25
"""factor on the measured peak, for the server's own memory and for longer texts"""
_STEP_MIB = 128
_SLOWER = 3
"""factor on the measured time to load a model, for a busy machine"""
_LEAST_SECONDS = 30
_NO_VERSION = Footprint(2**31, 120.0)


@dataclass(frozen=True)
class MemoryLimits:
    """The memory and time that a server is given."""

    request_mib: int
    """memory that is reserved for the server, in MiB"""
    limit_mib: int
    """memory beyond which the server is killed, in MiB"""
    initial_delay_seconds: int
    """time before the first readiness probe"""
    ready_seconds: int
    """time after which a server that is not ready counts as failed"""
    reason: str
    """an explanation of the numbers"""

    def probe_failures(self, period: int) -> int:
        """Number of probes that may fail after the initial delay, one every `period` seconds."""
        return max(math.ceil((self.ready_seconds - self.initial_delay_seconds) / period), 3)


def memory_of_one(model: Path, memory_gib: int | None = None) -> MemoryLimits:
    """The limits of a server of one model.

    Args:
        model: the model's folder.
        memory_gib: memory in GiB, instead of what was measured or estimated.
    """
    return _limits([_newest(model)], [model.name], memory_gib)


def memory_of_all(models: Sequence[Path], memory_gib: int | None = None) -> MemoryLimits:
    """The limits of a server of several models.

    Args:
        models: the models' folders.
        memory_gib: memory in GiB, instead of what was measured or estimated.
    """
    return _limits([_newest(path) for path in models], [p.name for p in models], memory_gib)


def _newest(model: Path) -> Footprint:
    versions = [path for path in model.glob("*") if path.name.isascii() and path.name.isdigit()]
    if not versions:
        return _NO_VERSION
    return footprint(max(versions, key=lambda path: int(path.name)))


def _limits(found: Sequence[Footprint], names: Sequence[str], given: int | None) -> MemoryLimits:
    peaks = [each.peak_memory_bytes for each in found]
    # A new version is loaded before the old one is unloaded, one model at a time.
    request = MARGIN * sum(peaks)
    limit = request + MARGIN * max(peaks)
    seconds = sum(each.ready_seconds for each in found)
    measured = all(each.is_measured for each in found)
    ready = math.ceil(_SLOWER * seconds if measured else seconds)
    what = ", ".join(
        f"{name}: {'measured' if each.is_measured else 'estimated'} "
        f"{each.peak_memory_bytes / 2**30:.2f} GiB"
        + (
            f" with {each.batch_rows} long texts at once, ready after {each.ready_seconds:.0f} s"
            if each.is_measured
            else ""
        )
        for name, each in zip(names, found, strict=True)
    )
    reason = (
        f"Memory of the server's process: {what}. It is multiplied by {MARGIN:g} for what was not "
        "measured; the limit has room for a second version of the largest model, which is loaded "
        "before the first is unloaded."
    )
    if measured:
        reason += (
            " The first readiness probe is after the measured time, and the server counts as "
            f"failed after {_SLOWER} times that."
        )
    else:
        reason += (
            " An estimate assumes that every signature holds all weights in float32, which is on "
            "the high side: `tfllm export --measure` measures instead."
        )
    if given is not None:
        reason = f"The memory was set by hand. {reason}"
    return MemoryLimits(
        given * 1024 if given is not None else _mib(request),
        given * 1024 if given is not None else _mib(limit),
        math.floor(seconds) if measured else 10,
        max(ready, _LEAST_SECONDS),
        reason,
    )


def _mib(size: float) -> int:
    return math.ceil(size / 2**20 / _STEP_MIB) * _STEP_MIB
