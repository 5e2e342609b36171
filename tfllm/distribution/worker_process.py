"""One local worker: a process with its share of the machine that does not outlive its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from typing import IO, TypeVar

from tfllm.config import ConfigError
from tfllm.distribution.worker_output import last_lines

_Part = TypeVar("_Part")
_PORTS = range(20_000, 30_000)
"""Below the ports of Linux's outgoing connections, which could take one before its worker does."""
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class WorkerProcess:
    """A started worker.

    Args:
        index: Number of the worker.
        command: Program and arguments.
        environ: Environment variables.
        log: File of its output, which the caller opens.
        stdout: File or descriptor for its standard output.
        stderr: File or descriptor for its standard error.
        cores: Cores that it may run on; None for all.

    Attributes:
        stopped: Whether it was stopped because of another worker, so that its status has no
            meaning.
        ended_at: Time when its end was noticed, on the monotonic clock.
    """

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        cores: Sequence[int] | None,
    ) -> None:
        self.index = index
        self.log = log
        self.stopped = False
        self.ended_at: float | None = None
        self._log_start = log.stat().st_size
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=dict(environ),
            start_new_session=True,  # Ctrl-C only reaches this process, which passes it on
            preexec_fn=_before_exec(os.getpid(), cores),
        )

    @property
    def alive(self) -> bool:
        """Whether its end has not been noticed yet."""
        return self.ended_at is None

    @property
    def status(self) -> int:
        """Its exit status after it has ended; -n if signal n killed it."""
        assert self._process.returncode is not None
        return self._process.returncode

    def poll(self) -> bool:
        """Whether it has ended since the last call; processes that it started are then killed."""
        if not self.alive:
            return False
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._kill_group()  # while the group's number still belongs to it
        self._process.wait()
        self.ended_at = time.monotonic()
        return True

    def send(self, number: int) -> None:
        """Send it a signal, if it still exists."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill it and the processes that it started, even if it is frozen."""
        if self.alive:
            self._kill_group()
            self._process.wait()
            self.ended_at = time.monotonic()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def describe_end(self) -> str:
        """Describe its end, such as "worker 1 was killed by SIGKILL"."""
        if self.status >= 0:
            return f"worker {self.index} ended with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # a real-time signal
            name = f"signal {-self.status}"
        return f"worker {self.index} was killed by {name}"

    def last_lines(self) -> list[str]:
        """The last lines of its output."""
        return last_lines(self.log, self._log_start)


def _before_exec(parent: int, cores: Sequence[int] | None) -> Callable[[], None] | None:
    """Prepare the new process before it becomes the worker."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # even if the parent is killed with -9
        if os.getppid() != parent:  # it died earlier
            os._exit(1)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return prepare


def shares(parts: Sequence[_Part], count: int) -> list[Sequence[_Part]]:
    """Divide parts into `count` contiguous shares; if there are too few, several get the same part.

    [0, 1, 2] for 2 workers becomes [0] and [1, 2]; for 4 workers [0], [1], [2] and [0].
    """
    if len(parts) < count:
        return [[parts[i % len(parts)]] for i in range(count)]
    return [parts[len(parts) * i // count : len(parts) * (i + 1) // count] for i in range(count)]


def usable_cores() -> list[int] | None:
    """The cores that this process may run on; None if the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


def share_gpus(environ: Mapping[str, str], count: int) -> list[dict[str, str]]:
    """For each worker, the variable that selects its share of the GPUs; empty without GPUs.

    Raises:
        ConfigError: If there are fewer GPUs than workers.
    """
    name = "CUDA_VISIBLE_DEVICES"
    if name in environ:
        gpus = [gpu for gpu in environ[name].split(",") if gpu.strip() not in ("", "-1")]
    else:
        folder = Path("/proc/driver/nvidia/gpus")
        gpus = [str(i) for i, _ in enumerate(folder.iterdir())] if folder.is_dir() else []
    if not gpus:
        return [{}] * count
    if len(gpus) < count:
        raise ConfigError(
            f"each worker needs its own GPU, or none: this machine has {len(gpus)}; received "
            f"{count} workers; start fewer, or set {name}= to train on the CPU"
        )
    return [{name: ",".join(share)} for share in shares(gpus, count)]


def free_ports(count: int) -> list[int]:
    """Find ports that are not in use."""
    found: list[int] = []
    for port in SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    if len(found) < count:
        raise OSError(f"{count} free ports are needed between {_PORTS[0]} and {_PORTS[-1]}")
    return found
