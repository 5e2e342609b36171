"""Local workers, here small scripts: their environment, output, exits and restarts."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import ANY

import pytest

from tfllm.config import ConfigError
from tfllm.distribution.launching import launch, logs_of

pytestmark = pytest.mark.alone

LAUNCH = """
import json, sys
from tfllm.distribution.launching import launch
from tfllm.distribution.worker_group import Patience
settings = json.loads(sys.argv[1])
settings["patience"] = Patience(**settings.pop("patience", {}))
sys.exit(launch(**settings))
"""
WORKER = """
import json, os, pathlib, signal, sys, time
task = json.loads(os.environ["TF_CONFIG"])
index = task["task"]["index"]
here = pathlib.Path(sys.argv[1])
def start_number():
    log = here / f"logs/worker-{index}.log"
    return sum(line.startswith("====") for line in log.read_text().splitlines())
def save_and_end_when_asked():
    def end(number, frame):
        (here / f"saved-{index}").write_text(signal.Signals(number).name)
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    (here / f"ready-{index}").write_text(str(os.getpid()))
"""


class Launcher:
    """A launcher in a process of its own, whose workers run a piece of code."""

    def __init__(self, folder: Path, code: str, *, num_workers: int = 2, **settings) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER + code)
        command = [sys.executable, "-S", str(folder / "worker.py"), str(folder)]
        streams = settings.pop("streams", {"stdout": subprocess.PIPE})
        values = {"num_workers": num_workers, "logs": str(folder / "logs"), **settings}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, json.dumps({"command": command, **values})],
            stdin=subprocess.DEVNULL,
            # The tests may run under nohup, which launch honours.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            **{"stderr": subprocess.PIPE, **streams},
        )

    def end(self, seconds: float = 30) -> tuple[int, str, str]:
        """Its status and what it printed."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def log(self, index: int) -> list[str]:
        return (self.folder / f"logs/worker-{index}.log").read_text().splitlines()

    def wait_for(self, *names: str) -> list[int]:
        """The numbers of the processes that have written these files."""
        end = time.monotonic() + 20
        while not all((self.folder / n).exists() and (self.folder / n).read_text() for n in names):
            assert time.monotonic() < end, self.process.poll()
            time.sleep(0.02)
        return [int((self.folder / name).read_text()) for name in names]


@pytest.fixture
def start(tmp_path):
    """Starts a launcher that does not outlive the test."""
    started = []

    def start(code: str, **settings) -> Launcher:
        started.append(Launcher(tmp_path, code, **settings))
        return started[-1]

    yield start
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.communicate()


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def wait_until_dead(pids: list[int], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"{[p for p in pids if is_alive(p)]} still run"
        time.sleep(0.02)


# ---- what a worker gets


def test_workers_know_one_another_and_their_own_place(start):
    launcher = start("print(json.dumps(task['cluster'])); print(index)", num_workers=3)
    assert launcher.end() == (0, "\n".join(launcher.log(0)[1:]) + "\n", ANY)
    printed = [launcher.log(i)[1:] for i in range(3)]
    assert [index for _, index in printed] == ["0", "1", "2"]
    assert len({cluster for cluster, _ in printed}) == 1
    addresses = json.loads(printed[0][0])["worker"]
    assert len(set(addresses)) == 3
    assert all(a.startswith("127.0.0.1:") and 20_000 <= int(a[10:]) < 30_000 for a in addresses)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
@pytest.mark.parametrize("pin", [True, False])
def test_each_worker_has_its_share_of_the_cores(start, pin):
    launcher = start("print(json.dumps(sorted(os.sched_getaffinity(0))))", pin=pin)
    assert launcher.end()[0] == 0
    all_cores = sorted(os.sched_getaffinity(0))
    first, second = (json.loads(launcher.log(i)[-1]) for i in (0, 1))
    if pin and len(all_cores) > 1:
        assert first + second == all_cores
    else:
        assert first == second == all_cores


def test_each_worker_sees_its_share_of_the_gpus(tmp_path, start):
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,GPU-1,2"}
    launcher = start("print(os.environ['CUDA_VISIBLE_DEVICES'])", environ=environ)
    assert launcher.end()[0] == 0
    assert [launcher.log(i)[-1] for i in (0, 1)] == ["0", "GPU-1,2"]
    with pytest.raises(ConfigError, match=r"this machine has 3; received 4 workers"):
        launch(["true"], num_workers=4, logs=tmp_path / "logs", environ=environ)


def test_wrong_requests_are_refused_before_anything_starts(tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(ConfigError, match="workers must be at least 1; received 0"):
        launch(["true"], num_workers=0, logs=logs)
    with pytest.raises(ConfigError, match="restarts must not be negative; received -1"):
        launch(["true"], num_workers=1, restarts=-1, logs=logs)
    pod = {"JOB_COMPLETION_INDEX": "0", "TFLLM_WORKERS": "2", "TFLLM_SERVICE": "s"}
    with pytest.raises(ConfigError, match="Kubernetes job t already has 2 workers"):
        launch(["true"], num_workers=2, logs=logs, environ={**pod, "HOSTNAME": "t-0"})
    assert not logs.exists()


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        launch(["no-such-program"], num_workers=1, logs=tmp_path, pin=False)


# ---- what they print


def test_the_chief_is_shown_and_every_worker_is_logged(start):
    code = "print('out of', index, flush=True); print('error of', index, file=sys.stderr)"
    launcher = start(code)
    status, out, err = launcher.end()
    assert (status, out) == (0, "out of 0\n")
    assert "error of 0" in err and "of 1" not in err
    for i in (0, 1):
        header, *lines = launcher.log(i)
        assert f"worker {i} of 2, start 1 of 1: " in header
        assert sorted(lines) == [f"error of {i}", f"out of {i}"]
    assert start(code).end()[0] == 0
    assert [line[:4] for line in launcher.log(1)].count("====") == 2  # appended


def test_a_progress_bar_reaches_the_terminal_and_its_last_state_the_log(start):
    code = (
        "sys.stderr.write(''.join(f'\\rstep {i}' for i in range(50)))\n"
        "sys.stderr.flush(); time.sleep(0.3)\n"
        "sys.stderr.write('\\r        \\rvalidated\\n\\rstep 50'); sys.stderr.flush()\n"
    )
    launcher = start(code)
    _, _, err = launcher.end()
    assert "\rstep 49" in err and err.rstrip().endswith("step 50")
    assert launcher.log(0)[1:] == ["validated", "step 50"]


def test_on_a_terminal_the_chief_has_a_terminal_of_the_same_width(start):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 77, 0, 0))
    code = (
        "columns = 0 if index else os.get_terminal_size(2).columns\n"
        "print(sys.stderr.isatty(), sys.stdout.isatty(), columns)\n"
        "print('a\\nb')\n"
    )
    launcher = start(code, streams={"stdout": slave, "stderr": slave})
    os.close(slave)
    shown = b""
    with suppress(OSError):  # its end
        while data := os.read(master, 4096):
            shown += data
    os.close(master)
    assert launcher.end()[0] == 0, shown
    assert b"True True 77\r\na\r\nb\r\n" in shown
    assert launcher.log(0)[1:] == ["True True 77", "a", "b"]
    assert launcher.log(1)[1:] == ["False False 0", "a", "b"]
    assert "False" in start("print(sys.stderr.isatty())").end()[1]


def test_a_reader_that_has_gone_does_not_end_the_workers(start):
    read, write = os.pipe()
    os.close(read)
    launcher = start("print('x' * 100_000)", streams={"stdout": write})
    os.close(write)
    assert launcher.end()[0] == 0
    assert len(launcher.log(0)[1]) == 100_000


# ---- how they end


def test_the_last_lines_of_a_failed_worker_are_shown_once(start):
    code = (
        "if index == 0: time.sleep(0.5); sys.exit(75)\n"
        "for i in range(30): print('line', i)\n"
        "sys.exit('the reason')\n"
    )
    status, _, err = start(code).end()
    assert status == 1
    assert err.count("worker 1 ended with status 1; the last lines of") == 1
    assert err.count("  | ") == 10 and err.count("  | the reason") == 1
    assert "worker 0 ended with status 75\n" in err
    assert "last checkpoint" not in err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit([75, 1][index])", 1),  # the reason, and its consequence
        ("time.sleep(0.3 * index); sys.exit([75, 2][index])", 2),
        ("time.sleep(0.3 * index); sys.exit([75, 0][index])", 75),
        ("sys.exit(75) if index else os.kill(os.getpid(), 9)", 137),
        ("time.sleep(0.3 * index); sys.exit(75) if index == 0 else os.kill(os.getpid(), 9)", 137),
        ("sys.exit([0, 75][index])", 0),  # the chief had finished
        ("sys.exit([0, 1][index])", 1),
        ("sys.exit(143)", 143),  # stopped from outside, and saved
    ],
)
def test_the_worker_that_decides_gives_the_status(start, code, status):
    assert start(code).end()[0] == status


def test_a_worker_that_was_killed_before_it_printed_is_named(start):
    _, _, err = start("if index == 1: os.kill(os.getpid(), 9)").end()
    assert "launch: worker 1 was killed by SIGKILL, without any output\n" in err


def test_workers_that_do_not_notice_a_failure_are_stopped(start):
    code = (
        "if index == 1:\n"
        "    while not (here / 'ready-0').exists(): time.sleep(0.02)\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "(here / 'ready-0').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    launcher = start(code, patience={"after_failure": 0.5, "after_terminate": 0.3})
    (pid,) = launcher.wait_for("ready-0")
    status, _, err = launcher.end(15)
    assert status == 1
    assert err.count("stopping workers that have not ended by themselves: 0\n") == 1
    assert not is_alive(pid)


def test_a_frozen_worker_is_ended_and_the_others_status_counts(start):
    code = (
        "save_and_end_when_asked()\n"
        "if index == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(1); sys.exit(75)\n"
    )
    launcher = start(code, patience={"after_failure": 0.5, "after_terminate": 0.3})
    pids = launcher.wait_for("ready-0", "ready-1")
    status, _, err = launcher.end(15)
    assert status == 75
    assert "worker 0 ended with status 75" in err and "worker 1 was killed" not in err
    wait_until_dead(pids)


def test_a_worker_that_hangs_after_the_chief_has_finished_is_ended(start):
    launcher = start(
        "if index == 1: time.sleep(60)", patience={"after_chief": 0.5, "after_terminate": 0.3}
    )
    assert launcher.end(15)[0] == 0


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_workers_save(start, number):
    launcher = start("save_and_end_when_asked(); time.sleep(60)", restarts=3)
    launcher.wait_for("ready-0", "ready-1")
    launcher.process.send_signal(number)
    status, _, err = launcher.end(15)
    passed = signal.SIGTERM if number == signal.SIGHUP else number
    assert status == 128 + passed
    for i in (0, 1):
        assert (launcher.folder / f"saved-{i}").read_text() == passed.name
        assert len([line for line in launcher.log(i) if line.startswith("====")]) == 1
    assert f"{number.name}: the workers save and end" in err and "ended with" not in err


def test_a_second_ctrl_c_ends_at_once(start):
    code = "save_and_end_when_asked(); signal.signal(2, signal.SIG_IGN)\n"
    code += "(here / f'deaf-{index}').write_text(str(os.getpid())); time.sleep(60)"
    launcher = start(code, restarts=3)
    pids = launcher.wait_for("deaf-0", "deaf-1")
    launcher.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(map(is_alive, pids))
    began = time.monotonic()
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.end(10)[0] == 130
    assert time.monotonic() - began < 3
    wait_until_dead(pids)


def test_a_signal_before_the_workers_can_save_ends_them(start):
    code = "(here / f'ready-{index}').write_text(str(os.getpid())); time.sleep(60)"
    launcher = start(code, restarts=3)
    launcher.wait_for("ready-0", "ready-1")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end(10)[0] == 143


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses prctl")
def test_no_worker_outlives_a_launcher_that_is_killed(start):
    code = "save_and_end_when_asked(); index and os.kill(os.getpid(), signal.SIGSTOP)\n"
    launcher = start(code + "time.sleep(60)", num_workers=3)
    pids = launcher.wait_for("ready-0", "ready-1", "ready-2")
    launcher.process.kill()
    launcher.process.communicate()
    wait_until_dead(pids)


def test_what_a_worker_started_ends_with_it(start):
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "(here / f'child-{index}').write_text(str(child.pid))\n"
    )
    launcher = start(code)
    children = launcher.wait_for("child-0", "child-1")
    assert launcher.end()[0] == 0
    wait_until_dead(children)


# ---- restarts


def test_workers_start_again_after_one_was_killed(start):
    code = (
        "if start_number() < 3:\n"
        "    if index == 1: os.kill(os.getpid(), 9)\n"
        "    time.sleep(0.3); sys.exit(75)\n"
        "print('done')\n"
    )
    launcher = start(code, restarts=4)
    status, out, err = launcher.end()
    assert (status, out) == (0, "done\n")
    for i in (1, 2):
        again = f"worker 1 was killed by SIGKILL: 2 workers start again (restart {i} of 4)\n"
        assert again in err
    assert "restart 3" not in err
    headers = [line for line in launcher.log(1) if line.startswith("====")]
    assert [h.split("start ")[1].split(":")[0] for h in headers] == [f"{i} of 5" for i in (1, 2, 3)]
    assert len({h.split(": ", 1)[1] for h in headers}) == 1  # the same command


def test_restarts_run_out(start):
    launcher = start("sys.exit(75)", restarts=2)
    status, _, err = launcher.end()
    assert status == 75
    assert len(launcher.log(0)) == 3
    assert err.count("start again") == 2
    assert "the same command continues from the last checkpoint" in err


@pytest.mark.parametrize("status", [1, 2])
def test_an_error_that_a_restart_would_meet_again_is_not_started_again(start, status):
    launcher = start(f"sys.exit({status} if index else 75)", restarts=3)
    assert launcher.end()[0] == status
    assert len(launcher.log(0)) == 1


# ---- where the logs go


def test_logs_stand_in_the_run_and_not_in_a_folder_of_something_else(tmp_path):
    assert logs_of(tmp_path / "new") == tmp_path / "new/logs"
    assert logs_of(tmp_path) == tmp_path / "logs"
    (tmp_path / "logs").mkdir()
    assert logs_of(tmp_path) == tmp_path / "logs"
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="has other files and no run"):
        logs_of(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert logs_of(tmp_path) == tmp_path / "logs"
    with pytest.raises(FileExistsError, match="received the file"):
        logs_of(tmp_path / "thesis.txt")
