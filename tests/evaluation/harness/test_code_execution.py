"""Programs that exit normally, and programs that try to do harm."""

import re
import socket
import sys

import pytest

from tfllm.evaluation.harness import code_execution
from tfllm.evaluation.harness.code_execution import Limits, run_programs
from tfllm.evaluation.harness.program_runner import filter_program

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's"),
    pytest.mark.alone,
]
SHORT = Limits(cpu_seconds=1, wall_seconds=60, memory_bytes=300 << 20)


def outcome(program: str, limits: Limits = SHORT):
    (result,) = run_programs([program], allow_code_execution=True, limits=limits)
    return result


def test_nothing_runs_without_being_allowed():
    with pytest.raises(PermissionError, match=r"a model wrote.*allow_code_execution=True"):
        run_programs(["1"], allow_code_execution=False)


PASS = {
    "plain": "def f(x):\n    return x + 1\nassert f(1) == 2",
    "imports": "import math, re, collections, itertools, hashlib, string, typing, random\n"
    "assert hashlib.md5(b'a').hexdigest()[:4] == '0cc1'",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    "assert A().x",
    "prints": "print('x' * 100_000)",
    "empty folder": "import os\nassert os.listdir('.') == []",
    "no environment": "import os\nassert set(os.environ) <= {'LC_CTYPE'}, dict(os.environ)",
    "few descriptors": "import os\nassert len(os.listdir('/proc/self/fd')) <= 5",
}
FAIL = {
    "wrong": ("assert 1 == 2, 'no'", "AssertionError: no"),
    "syntax": ("def f(:", "SyntaxError"),
    "null byte": ("x = 1\0", "SyntaxError|ValueError"),
    "exits": ("import os\nos._exit(0)", "exited its process early"),
    "sys.exit": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "says so itself": (
        'import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b\'{"error": ""}\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
        "exited its process early",
    ),
    "loop": ("while True:\n    pass", "over 1 s of CPU time"),
    "catches all": (
        "while True:\n    try:\n        while True:\n            pass\n"
        "    except BaseException:\n        pass",
        "CPU time",
    ),
    "ignores signals": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "CPU time",
    ),
    "memory": ("x = [0]\nwhile True:\n    x += x", "MemoryError"),
    "memory at once": ("x = bytearray(10 ** 10)", "MemoryError"),
    "recursion": ("def f():\n    f()\nf()", "RecursionError"),
    "fork": ("import os\nwhile True:\n    os.fork()", "PermissionError|BlockingIOError"),
    "threads": (
        "import threading\nwhile True:\n    threading.Thread(target=print).start()",
        "start new thread",
    ),
    "shell": (
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "PermissionError|BlockingIOError",
    ),
    "exec": ("import os\nos.execv('/bin/true', ['true'])", "PermissionError"),
    "kill all": ("import os, signal\nos.kill(-1, signal.SIGKILL)", "PermissionError"),
    "kill its parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "socket": ("import socket\nsocket.socket()", "PermissionError"),
    "unix socket": ("import socket\nsocket.socketpair()", "PermissionError"),
    "writes here": ("open('x', 'w')", "PermissionError"),
    "makes a folder": ("import os\nos.mkdir('x')", "PermissionError"),
    "tells much": (
        "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'x' * 10 ** 6)\n"
        "    except OSError:\n        pass",
        "exited its process early|died|too long",
    ),
    "raises limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "PermissionError|ValueError",
    ),
    "calls the kernel": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.socket(2, 1, 0) < 0 and ctypes.get_errno() == 1\n"
        "assert libc.syscall(425, 8, 0) < 0 and ctypes.get_errno() == 1\n"  # io_uring_setup
        "assert False, 'held'",
        "AssertionError: held",
    ),
    "an error that cannot be told": (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
        "^E$",
    ),
}


@pytest.fixture(scope="module")
def outcomes():
    programs = [*PASS.values(), *(program for program, _ in FAIL.values())]
    results = run_programs(programs, allow_code_execution=True, limits=SHORT)
    return dict(zip([*PASS, *FAIL], results, strict=True))


@pytest.mark.parametrize("name", PASS)
def test_a_program_that_is_right_passes(outcomes, name):
    assert outcomes[name].passed, outcomes[name].reason


@pytest.mark.parametrize("name", FAIL)
def test_a_program_that_is_wrong_or_harmful_fails(outcomes, name):
    assert not outcomes[name].passed
    assert re.search(FAIL[name][1], outcomes[name].reason), outcomes[name].reason


def test_sleep_ends_with_the_time():
    limits = Limits(wall_seconds=1)
    result = outcome("import time\ntime.sleep(60)", limits)
    assert (result.passed, result.reason) == (False, "too long: over 1 s")
    result = outcome("import os, time\nos.closerange(0, 30)\ntime.sleep(60)", limits)
    assert (result.passed, result.reason) == (False, "too long: over 1 s")


def test_no_file_is_touched(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    attempts = [
        f"open({str(kept)!r}, 'w')",
        f"open({str(kept)!r}, 'a')",
        f"open({str(kept)!r}, 'r+')",
        f"open({str(tmp_path / 'new')!r}, 'x')",
        *(
            f"import os, shutil\n{call}"
            for call in (
                f"os.remove({str(kept)!r})",
                f"os.rename({str(kept)!r}, {str(kept)!r} + '2')",
                f"os.truncate({str(kept)!r}, 0)",
                f"os.chmod({str(kept)!r}, 0)",
                f"os.utime({str(kept)!r}, (0, 0))",
                f"os.symlink({str(kept)!r}, {str(tmp_path / 'link')!r})",
                f"os.link({str(kept)!r}, {str(tmp_path / 'link')!r})",
                f"os.rmdir({str(tmp_path)!r})",
                f"shutil.rmtree({str(tmp_path)!r})",
                f"os.ftruncate(os.open({str(kept)!r}, os.O_RDONLY), 0)",
                f"os.setxattr({str(kept)!r}, 'user.a', b'b')",
            )
        ),
    ]
    for attempt, result in zip(
        attempts, run_programs(attempts, allow_code_execution=True), strict=True
    ):
        assert not result.passed, attempt
        assert "PermissionError" in result.reason or "OSError" in result.reason, result.reason
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert kept.read_text() == "mine"


def test_a_server_of_this_machine_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert not outcome(f"import socket\nsocket.create_connection({address!r})").passed
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()  # nobody waits there


def test_the_filter_alone_holds(monkeypatch, tmp_path):
    # As on a system that gives an unprivileged process no namespaces: the runner without unshare.
    source = code_execution._RUNNER.read_text()
    assert source.count("libc.unshare(") == 1
    runner = tmp_path / "runner.py"
    runner.write_text(source.replace("libc.unshare(", "abs("))
    monkeypatch.setattr(code_execution, "_RUNNER", runner)
    assert outcome("assert True").passed
    assert "PermissionError" in outcome("import socket\nsocket.socket()").reason
    assert "PermissionError" in outcome("import os\nos.fork()").reason


def test_no_program_runs_unconfined(monkeypatch, tmp_path):
    source = code_execution._RUNNER.read_text()
    runner = tmp_path / "runner.py"
    runner.write_text(source.replace("_FILTER_MODE = 38, 22, 2", "_FILTER_MODE = 38, 22, 99"))
    assert runner.read_text() != source
    monkeypatch.setattr(code_execution, "_RUNNER", runner)
    with pytest.raises(RuntimeError, match="could not be confined"):
        outcome("1")


def test_a_machine_without_a_filter_is_refused():
    with pytest.raises(OSError, match="no filter for riscv64"):
        filter_program("riscv64")
    for machine in ("x86_64", "aarch64"):
        code = filter_program(machine)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 256  # a jump has 8 bits
