"""Run in a separate process: checkpoint operations with a process killed or a disk full.

python -m tests.training.file_operations kill           # at each file operation of each call
python -m tests.training.file_operations fill FOLDER    # a small file system to itself
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.training.checkpoints.checkpoints import Checkpoints, Progress

CALLS: dict[str, Callable[[Checkpoints], Any]] = {
    "save the first": lambda c: c.save(state(3), Progress(step=3)),
    "save": lambda c: c.save(state(3), Progress(step=3, best_step=3)),
    "save again": lambda c: c.save(state(12), Progress(step=2, best_step=1)),
    "update": lambda c: c.update(Progress(step=2, best_step=2, tokens=99)),
    "set aside": lambda c: c.set_aside(2),
    "recover": lambda c: c.recover(),
}


def state(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"model/kernel": draw.normal(size=(50, 30)), "optimizer/iterations": np.array(seed)}


def prepare(folder: Path, name: str) -> Checkpoints:
    """The checkpoints 1, the best, and 2, or what the call finds instead."""
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    if name != "save the first":
        checkpoints.save(state(1), Progress(step=1, best_step=1))
        checkpoints.save(state(2), Progress(step=2, best_step=1))
    if name == "recover":
        other = Checkpoints(folder / "other", keep=9)
        for step, seed in ((2, 12), (4, 4)):
            left = other.save(state(seed), Progress(step=step))
            left.rename(checkpoints.folder / f".replaced-{left.name}")
        shutil.copytree(checkpoints.path(1), checkpoints.folder / ".deleting-step-00000009")
    return checkpoints


def before_each_file_operation(call: Callable[[], Any], meet: Callable[[str], None]) -> None:
    """Do `call`, with `meet` told of each operation of the system or of an open file."""

    def watch(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and (
            isinstance(getattr(function, "__self__", None), io.IOBase)
            or function.__module__ in ("posix", "_io", "io")
        ):
            meet(function.__name__)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)


def contents(checkpoints: Checkpoints) -> dict[int, tuple[float, Progress]]:
    """Step to the sum of its weights and its progress; fails unless every checkpoint is whole."""
    found = {}
    for step in checkpoints.steps():
        arrays, progress = checkpoints.read(step)
        found[step] = (float(arrays["model/kernel"].sum()), progress)
    return found


def assert_nothing_else(checkpoints: Checkpoints, where: str) -> None:
    for path in checkpoints.folder.glob("*"):
        assert not path.name.startswith("."), f"{where}: {path}"
        files = sorted(p.name for p in path.iterdir())
        assert files == ["progress.json", "state.safetensors"], f"{where}: {path} has {files}"


def kill_at_each_operation(name: str) -> int:
    """Kill a process at every operation of a call; returns how many there were.

    Each time, the folder that is opened again must hold what it held before or after the call.
    """
    with tempfile.TemporaryDirectory() as place:
        checkpoints = prepare(Path(place), name)
        before = contents(checkpoints)
        CALLS[name](checkpoints)
        checkpoints.recover()
        after = contents(checkpoints)
    allowed = [before, after]
    if name == "save":  # the old ones are deleted one by one, once the new one is there
        allowed += [{**before, **after}, {2: before[2], **after}]
    if name == "recover":
        allowed = [after]
    for number in range(10_000):
        with tempfile.TemporaryDirectory() as place:
            checkpoints = prepare(Path(place), name)
            status = _killed(lambda c=checkpoints: CALLS[name](c), number)
            checkpoints.recover()
            where = f"{name}, killed at operation {number}"
            found = contents(checkpoints)
            assert found in allowed, f"{where}: {found}"
            assert_nothing_else(checkpoints, where)
        if status == 0:
            return number
    raise AssertionError("no end")


def _killed(call: Callable[[], Any], number: int) -> int:
    """The exit status of a process that is killed at its file operation `number`, if any."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        return status
    left = [number]

    def meet(operation: str) -> None:
        if not left[0]:
            os._exit(9)
        left[0] -= 1

    before_each_file_operation(call, meet)
    os._exit(0)


def fill(folder: Path) -> int:
    """Save with ever more room on a full disk; returns how often there was too little."""
    checkpoints = prepare(folder, "save")
    before = contents(checkpoints)
    filler = folder / "filler"
    failed = 0
    for room in range(0, 100):
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
            file.truncate(max(0, file.tell() - 512 * room))
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        try:
            checkpoints.save(state(3), Progress(step=3, best_step=1))
        except OSError as error:
            failed += 1
            assert "No space left" in str(error) and "that of step 2; free some space" in str(
                error
            ), error
            assert contents(checkpoints) == before, free
            assert_nothing_else(checkpoints, f"{free} bytes free")
            try:
                checkpoints.update(Progress(step=2, best_step=2))
            except OSError as second:
                assert "the checkpoint of step 2 could not be written" in str(second)
            else:
                checkpoints.update(Progress(step=2, best_step=1))
            assert contents(checkpoints) == before, free
        else:
            assert sorted(contents(checkpoints)) == [1, 3]
            return failed
        filler.unlink()
    raise AssertionError("it never fitted")


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        print(fill(Path(sys.argv[2])))
    else:
        for name in CALLS:
            print(name, kill_at_each_operation(name), sep=": ", flush=True)
