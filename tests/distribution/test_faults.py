"""A failure of one worker soon ends all of them, with a message that says what to do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.distribution.processes import ROOT, SETTINGS, Workers, last_step

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.alone]
SOON = 30
"""seconds; TensorFlow looks after silent workers every few"""


@pytest.fixture
def two(prepared, tmp_path):
    def two(**options):
        return Workers(prepared, tmp_path / "run", count=2, **{"steps": 100_000, **options})

    return two


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_other(two, victim):
    with two() as run:
        run.wait_for_step(10)
        run.processes[victim].kill()
        assert run.processes[1 - victim].wait(SOON) == 75
        said = run.log(1 - victim)
        assert f"worker {1 - victim} stopped because another worker went away" in said
        assert "with the same command" in said
        assert last_step(run.out) >= 10


@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_worker_ends_the_other(two, victim):
    with two() as run:
        run.wait_for_step(10)
        run.processes[victim].send_signal(signal.SIGSTOP)
        assert run.processes[1 - victim].wait(SOON) == 75
        assert "no longer answers" in run.log(1 - victim)


def test_a_loss_that_is_nan_ends_both_and_keeps_the_last_good_checkpoint(two):
    with two(learning_rate=1e12, warmup_steps=30, clip_norm="none") as run:
        assert run.statuses() == [1, 1]
        for index in range(2):
            assert "training stopped" in run.log(index)
            assert "lower learning rate" in run.log(index)


def test_a_disk_that_takes_no_checkpoint_ends_both(two):
    with two(file_limit=50_000, **{"model.embedding_dim": 64}) as run:
        assert sorted(run.statuses()) == [1, 75]
        assert "the checkpoint of step 5 could not be written" in run.log(0)
        assert "the same command continues from there" in run.log(0)


def test_workers_with_another_model_do_not_begin(two):
    with two(each={1: ["model.num_layers=2"]}) as run:
        assert run.statuses() == [1, 1]
        assert "model.num_layers is 2 on worker 1 and 1 on the chief" in run.log(0)


def test_a_signal_to_one_worker_stops_both_at_the_same_step(two):
    with two() as run:
        run.wait_for_step(10)
        run.processes[1].terminate()
        assert run.statuses(SOON) == [128 + signal.SIGTERM] * 2
        assert f"after step {last_step(run.out)}, which is saved" in run.log(0)


def test_a_worker_that_is_started_twice_is_refused_and_the_run_goes_on(two):
    with two() as run:
        run.wait_for_step(5)
        second = run.start(1)
        assert second.wait(SOON) == 1
        assert "is it already running?" in run.log(1)
        before = last_step(run.out)
        run.wait_for_step(before + 10)
        assert all(p.poll() is None for p in run.processes[:2])


def test_workers_with_other_settings_do_not_begin(two):
    with two(each={1: ["learning_rate=0.02"]}) as run:
        assert run.statuses() == [1, 1]
        for index in range(2):
            assert "settings.learning_rate is 0.02 on worker 1 and 0.01 on the chief" in (
                run.log(index)
            )
    assert not (run.out / "run.json").exists()


def test_workers_with_other_code_do_not_begin(two, tmp_path):
    shutil.copytree(
        ROOT / "tfllm", tmp_path / "other/tfllm", ignore=shutil.ignore_patterns("__pycache__")
    )
    with open(tmp_path / "other/tfllm/optimization/adamw.py", "a") as file:
        file.write("# changed\n")
    with two(environment={1: {"PYTHONPATH": str(tmp_path / "other")}}) as run:
        assert run.statuses() == [1, 1]
        assert "code is 'tfllm" in run.log(0) and "from the same installation" in run.log(1)


def test_a_changed_shard_is_named_on_every_worker(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    shard = max((tmp_path / "data").glob("train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with Workers(tmp_path / "data", tmp_path / "run", count=2, steps=10) as run:
        assert run.statuses() == [1, 1]
        for index in range(2):
            assert shard.name in run.log(index)
            assert "SHA-256" in run.log(index)


def test_a_vanished_shard_is_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    shard = max((tmp_path / "data").glob("train-*.bin"))
    shard.unlink()
    with Workers(tmp_path / "data", tmp_path / "run", steps=10) as run:
        assert run.statuses() == [1]
        assert f"{shard.name} is listed" in run.log()


def test_launch_starts_killed_workers_again(prepared, tmp_path):
    given = {**SETTINGS, "steps": 400, "gradient_accumulation": 1}
    command = [sys.executable, "-m", "tfllm.cli", "launch", "--workers", "2", "--restarts", "2"]
    command += ["--", "train", "--data", str(prepared), "--out", str(tmp_path / "run")]
    command += ["--set", *(f"{key}={value}" for key, value in given.items())]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end = time.monotonic() + 120
        while last_step(tmp_path / "run") < 5:
            assert time.monotonic() < end
            time.sleep(0.1)
        children = subprocess.run(
            ["ps", "--ppid", str(launcher.pid), "-o", "pid="], capture_output=True, text=True
        ).stdout.split()
        assert len(children) >= 2
        os.kill(int(children[-1]), signal.SIGKILL)
        printed, _ = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, printed
    assert last_step(tmp_path / "run") == 400
    assert (tmp_path / "run/model/model.safetensors").exists()
    assert (tmp_path / "run/logs/worker-1.log").read_text().count("====") >= 2
