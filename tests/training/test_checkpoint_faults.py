"""Killing the process, or a full disk, at any moment never destroys a good checkpoint.

Losing power is not tested; the order in which data reach the disk, which matters then, is.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.file_operations import (
    CALLS,
    assert_nothing_else,
    before_each_file_operation,
    contents,
    prepare,
    state,
)
from tfllm.training.checkpoints.checkpoints import Progress

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [*command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_killed_at_any_operation_a_folder_holds_the_old_or_the_new_whole():
    place = {"TMPDIR": str(SHARED_MEMORY)} if SHARED_MEMORY.is_dir() else {}
    output = run(sys.executable, "-m", "tests.training.file_operations", "kill", **place)
    kills = dict(line.split(": ") for line in output.splitlines())
    assert kills.keys() == CALLS.keys()
    assert int(kills["save"]) > 40 and int(kills["save again"]) > 40  # the watch saw them


@pytest.mark.parametrize("name", ["save the first", "save", "save again", "update"])
def test_a_disk_that_is_full_at_any_operation_changes_nothing(tmp_path, name):
    failed = set()
    for number in range(1000):
        checkpoints = prepare(tmp_path / str(number), name)
        before = contents(checkpoints)
        left, met = [number], []

        def meet(operation, left=left, met=met):
            if operation in ("open", "write", "flush", "fsync", "mkdir", "rename", "replace"):
                if not left[0]:
                    met.append(operation)
                    raise OSError(28, "No space left on device")
                left[0] -= 1

        try:
            before_each_file_operation(lambda c=checkpoints: CALLS[name](c), meet)
        except OSError as error:
            failed.add(met[0])
            good = f"that of step {max(before)}" if before else "There is none yet"
            said = r"checkpoint of step \d could not be written to .*No space left.*"
            assert re.search(f"{said}{good}; free some space", str(error)), error
            assert error.errno == 28
            after = contents(checkpoints)
            if name == "update" and after[2][1].tokens == 99:  # the folder could not be synced
                after[2] = before[2]
            assert after == before, number
            if before:
                assert_nothing_else(checkpoints, f"operation {number}")
        if not met:
            break
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    assert {"open", "write", "flush", "fsync", "replace"} <= failed


def test_a_file_system_that_is_full_keeps_what_was_good(tmp_path):
    alone = ("unshare", "--map-root-user", "--mount")
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"]).returncode:
        pytest.skip("no file system of one's own can be mounted here")
    script = 'mount -t tmpfs -o size=80k none "$0" && exec "$@"'
    program = (sys.executable, "-m", "tests.training.file_operations", "fill", str(tmp_path))
    assert int(run(*alone, "sh", "-c", script, str(tmp_path), *program)) > 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_nothing_is_renamed_before_the_disk_has_it_nor_deleted_before_the_new_one_is_there(
    tmp_path, monkeypatch
):
    checkpoints = prepare(tmp_path, "save")
    done = []

    def note(owner, name, fact):
        original = getattr(owner, name)

        def noted(*arguments):
            done.append(fact(*arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)

    note(os, "fsync", lambda fd: f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")
    for name in ("rename", "replace"):
        note(Path, name, lambda old, new: f"{old.name} -> {new.name}")
    checkpoints.save(state(3), Progress(step=3, best_step=3))
    assert done == [
        "sync state.safetensors",
        "sync .progress.json",
        ".progress.json -> progress.json",
        "sync .writing-step-00000003",
        ".writing-step-00000003 -> step-00000003",
        "sync checkpoints",
        "step-00000001 -> .deleting-step-00000001",
        "step-00000002 -> .deleting-step-00000002",
    ]
    done.clear()
    checkpoints.save(state(4), Progress(step=3, best_step=3))
    assert done[4:] == [
        "step-00000003 -> .replaced-step-00000003",
        ".writing-step-00000003 -> step-00000003",
        "sync checkpoints",
        ".replaced-step-00000003 -> .deleting-step-00000003",
    ]
