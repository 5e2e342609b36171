"""Saving in the background: training continues, and files are written in the order of the calls."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.training.file_operations import state
from tfllm.training.checkpoints.background_checkpoints import BackgroundCheckpoints
from tfllm.training.checkpoints.checkpoints import Checkpoints, Progress

pytestmark = pytest.mark.alone


@pytest.fixture
def checkpoints(tmp_path):
    with BackgroundCheckpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        yield checkpoints


@pytest.fixture
def gate(monkeypatch):
    """Closed, it holds the writing up before its first byte."""
    import tfllm.training.checkpoints.checkpoints as module

    write, gate = module.write_checkpoint, threading.Event()
    gate.set()

    def held(*arguments):
        assert gate.wait(30)
        write(*arguments)

    monkeypatch.setattr(module, "write_checkpoint", held)
    yield gate
    gate.set()


@pytest.fixture
def full_disk(monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    def fill():
        monkeypatch.setattr("tfllm.training.checkpoints.checkpoints.write_checkpoint", full)

    return fill


def on_disk(checkpoints) -> Checkpoints:
    return Checkpoints(checkpoints.folder, checkpoints.keep)


def test_save_returns_before_anything_is_written_and_steps_are_those_on_the_disk(checkpoints, gate):
    checkpoints.save(state(1), Progress(step=1))
    checkpoints.wait()
    gate.clear()
    progress = Progress(step=2, best_step=2)
    checkpoints.save(state(2), progress)
    assert checkpoints.steps() == [1]
    progress.step, progress.best_step = 3, 3  # training goes on
    gate.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    arrays, saved = on_disk(checkpoints).read(2)
    assert saved == Progress(step=2, best_step=2)
    np.testing.assert_array_equal(arrays["model/kernel"], state(2)["model/kernel"])


@pytest.mark.parametrize("second", ["save", "update", "set_aside", "recover"])
def test_what_changes_a_checkpoint_waits_for_the_one_before(checkpoints, gate, second):
    calls = {
        "save": lambda: checkpoints.save(state(2), Progress(step=2, best_step=1)),
        "update": lambda: checkpoints.update(Progress(step=1, best_step=1)),
        "set_aside": lambda: checkpoints.set_aside(1),
        "recover": checkpoints.recover,
    }
    gate.clear()
    checkpoints.save(state(1), Progress(step=1))
    found = []

    def call():
        calls[second]()
        found.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and not found and checkpoints.steps() == []
    gate.set()
    thread.join(30)
    assert found


def test_the_best_is_on_the_disk_before_any_other_says_so(checkpoints, monkeypatch):
    import tfllm.training.checkpoints.checkpoints as module

    put = module.Checkpoints._put

    def checked(self, beside, target):
        put(self, beside, target)
        best = self.progress(self.steps()[-1]).best_step
        assert best is None or best in self.steps(), f"{best} is not there yet"

    monkeypatch.setattr(module.Checkpoints, "_put", checked)
    for step in range(1, 12):
        best = step if step % 3 == 0 else step // 3 * 3
        checkpoints.save(state(step), Progress(step=step, best_step=best or None))
    checkpoints.wait()
    assert checkpoints.steps() == [9, 10, 11]


def test_the_error_of_the_thread_is_raised_once_by_the_next_call(checkpoints, full_disk):
    checkpoints.save(state(1), Progress(step=1))
    checkpoints.wait()
    full_disk()
    said = r"step 2 could not be written .*No space left.*that of step 1; free some space"
    for raises in (
        lambda: checkpoints.save(state(3), Progress(step=3)),
        lambda: checkpoints.update(Progress(step=1)),
        checkpoints.wait,
        checkpoints.close,
    ):
        checkpoints.save(state(2), Progress(step=2))
        with pytest.raises(OSError, match=said):
            raises()
        checkpoints.wait()
    checkpoints.save(state(2), Progress(step=2))
    with pytest.raises(OSError, match=said):
        while True:  # as a training loop does that does not wait
            checkpoints.check()
    assert checkpoints.steps() == [1]
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_the_error_of_the_thread_is_raised_at_the_end_but_hides_no_other(tmp_path, full_disk):
    full_disk()
    with (
        pytest.raises(OSError, match="No space left"),
        BackgroundCheckpoints(tmp_path, 1) as checkpoints,
    ):
        checkpoints.save(state(1), Progress(step=1))
    with (
        pytest.warns(UserWarning, match="step 1 could not be written .*No space left"),
        pytest.raises(KeyError, match="first"),
        BackgroundCheckpoints(tmp_path, 1) as checkpoints,
    ):
        checkpoints.save(state(1), Progress(step=1))
        raise KeyError("first")


ENDS = {
    "normal": "",
    "error": "raise ValueError('an end')",
    "exit": "sys.exit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "main thread hangs up": "threading.Thread(target=sys.exit).start()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_only_when_what_it_began_is_written(tmp_path, end):
    program = f"""
import sys, threading, time
from pathlib import Path
import numpy as np
import tfllm.training.checkpoints.checkpoints as module
from tfllm.training.checkpoints.background_checkpoints import BackgroundCheckpoints
from tfllm.training.checkpoints.checkpoints import Progress

write = module.write_checkpoint
module.write_checkpoint = lambda *a: (time.sleep(1), write(*a))
checkpoints = BackgroundCheckpoints(Path({str(tmp_path)!r}), 1)
checkpoints.save({{"a": np.arange(9)}}, Progress(step=1))
{ENDS[end]}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode == 0) == (end in ("normal", "main thread hangs up")), done.stderr
    arrays, _ = Checkpoints(tmp_path, 1).read(1)
    np.testing.assert_array_equal(arrays["a"], np.arange(9))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
