"""Run programs that a model wrote, each in a process with as few rights as possible.

A model's program may be wrong in any way: it may never end, fill the memory, start processes,
delete files. Each runs in its own process (`program_runner` lists the rights that the process gives
up first), with an empty environment, no inherited file descriptors, and an empty working folder.
This protects against accidents and most malicious code; for code that you do not trust at all, use
a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

WARNING = (
    "this runs programs that a model wrote. Each runs in a process without network, without "
    "writing to files, and with limits on time and memory, but it can read what you can read"
)
_RUNNER = Path(__file__).with_name("program_runner.py")
_MOST_OUTPUT = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Resource limits of a program."""

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    """wall-clock time since the start of its process, including sleep"""
    memory_bytes: int = 1 << 30
    """address space, including about 100 MiB of the interpreter"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program."""

    passed: bool
    """whether it ran to its end without an error"""
    reason: str
    """reason of a failure, in one line: the error, "too long", or how its process died"""


def run_programs(
    programs: Iterable[str],
    *,
    allow_code_execution: bool,
    limits: Limits | None = None,
    at_once: int | None = None,
) -> list[Outcome]:
    """Run programs, each in its own process.

    Args:
        programs: Python source code.
        allow_code_execution: must be true, so that a model's code is never run by accident.
        limits: resource limits of each program. Defaults to `Limits()`.
        at_once: number of processes at a time. Defaults to one per core.

    Returns:
        The outcome of each program.

    Raises:
        PermissionError: `allow_code_execution` is false.
        RuntimeError: the system cannot confine a process; no program was run.
    """
    check_allowed(allow_code_execution)
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise RuntimeError(
            "a model's programs are only run on Linux (x86-64 or arm64), where a seccomp filter "
            f"confines them; this is {sys.platform} on {platform.machine()}: use a container"
        )
    with ThreadPoolExecutor(at_once or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _run(program, limits or Limits()), programs))


def check_allowed(allow_code_execution: bool) -> None:
    """Raise a PermissionError unless `allow_code_execution` is true."""
    if not allow_code_execution:
        raise PermissionError(
            f"{WARNING}; allow it with allow_code_execution=True, or --allow-code-execution on the "
            "command line"
        )


def _run(program: str, limits: Limits) -> Outcome:
    token = secrets.token_hex(16)
    request = {
        "token": token,
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.memory_bytes,
    }
    source = program.encode("utf-8", "replace")
    deadline = time.monotonic() + limits.wall_seconds
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryDirectory(prefix="tfllm-program-") as empty,
    ):
        given.write(json.dumps(request).encode() + b"\n" + source)
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_RUNNER)],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={},
            close_fds=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            output = _output(process.stdout, deadline)
            if output is None:
                return Outcome(False, f"too long: over {limits.wall_seconds:g} s")
            try:
                status = process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:  # it closed its output and continued
                return Outcome(False, f"too long: over {limits.wall_seconds:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    return _outcome(output, status, token, limits)


def _output(stream: IO[bytes], deadline: float) -> bytes | None:
    """The output of a process up to a maximum size; None if it does not end before the deadline."""
    parts = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(stream, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not waiting.select(left):
                continue
            part = os.read(stream.fileno(), _MOST_OUTPUT)
            parts += part
            if not part or len(parts) > _MOST_OUTPUT:
                return parts
    return None


def _outcome(output: bytes, status: int, token: str, limits: Limits) -> Outcome:
    try:
        report = json.loads(output)
    except ValueError:
        report = {}
    if isinstance(report, dict) and "refused" in report and "token" not in report:
        raise RuntimeError(
            f"the process of a program could not be confined ({report['refused']}), so the program "
            "was not run; a sandbox around tfllm may forbid it"
        )
    if isinstance(report, dict) and report.get("token") == token:
        error = str(report.get("error"))
        return Outcome(not error, error)
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        return Outcome(False, f"too long: over {limits.cpu_seconds} s of CPU time")
    if status < 0:
        return Outcome(False, f"its process was killed by {signal.Signals(-status).name}")
    return Outcome(False, f"it exited its process early (status {status})")
