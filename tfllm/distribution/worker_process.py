"""One local worker: a process with its share of the machine, that does not outlive its parent."""

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
"""below those of Linux's outgoing connections, which could take one before its worker does"""
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class WorkerProcess:
    """A started worker.

    Args:
        index: its number.
        command: program and arguments.
        environ: environment variables.
        log: the file that its output goes to; opened by the caller.
        stdout: file or descriptor for its standard output.
        stderr: the same for its standard error.
        cores: that it may run on; None for all.

    Attributes:
        stopped: whether it was told to stop because of another worker: its status says nothing.
        ended_at: when its end was seen, on the monotonic clock.
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
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            preexec_fn=_before_exec(os.getpid(), cores),
        )

    @property
    def alive(self) -> bool:
        """Whether its end has not been seen yet."""
        return self.ended_at is None

    @property
    def status(self) -> int:
        """Its exit status once it has ended; -n where signal n killed it."""
        assert self._process.returncode is not None
        return self._process.returncode

    def poll(self) -> bool:
        """Whether it has ended since the last call; what it started itself is then killed."""
        if not self.alive:
            return False
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._kill_group()  # while the number of the group is still its own
        self._process.wait()
        self.ended_at = time.monotonic()
        return True

    def send(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it and what it started, at once; a frozen one, too."""
        if self.alive:
            self._kill_group()
            self._process.wait()
            self.ended_at = time.monotonic()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def describe_end(self) -> str:
        """Such as "worker 1 was killed by SIGKILL"."""
        if self.status >= 0:
            return f"worker {self.index} ended with status {self.status}"
        try:
            name = signal.Signals(-self.status).name
        except ValueError:  # a real-time signal
            name = f"signal {-self.status}"
        return f"worker {self.index} was killed by {name}"

    def last_lines(self) -> list[str]:
        """The last lines that it printed."""
        return last_lines(self.log, self._log_start)


def _before_exec(parent: int, cores: Sequence[int] | None) -> Callable[[], None] | None:
    """What the new process does before it becomes the worker."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # even if the parent is killed with -9
        if os.getppid() != parent:  # it died before that
            os._exit(1)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return prepare


def shares(parts: Sequence[_Part], count: int) -> list[Sequence[_Part]]:
    """Neighbouring parts for each of `count` workers; with too few of them, several have the same.

    [0, 1, 2] for 2 workers are [0] and [1, 2]; for 4 workers [0], [1], [2] and [0].
    """
    if len(parts) < count:
        return [[parts[i % len(parts)]] for i in range(count)]
    return [parts[len(parts) * i // count : len(parts) * (i + 1) // count] for i in range(count)]


def usable_cores() -> list[int] | None:
    """The cores that this process may run on; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


def share_gpus(environ: Mapping[str, str], count: int) -> list[dict[str, str]]:
    """For each worker, the variable that shows it its share of the GPUs; nothing without GPUs.

    Raises:
        ConfigError: there are fewer GPUs than workers.
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
            f"each worker needs a GPU of its own, or none: this machine has {len(gpus)}; received "
            f"{count} workers; start fewer, or set {name}= to train on the CPU"
        )
    return [{name: ",".join(share)} for share in shares(gpus, count)]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
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
