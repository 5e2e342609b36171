"""A checkpoint moves between numbers of replicas and workers, with shared state or without."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.replicated_state import make_model, train
from tfllm.training.checkpoints.checkpoints import Checkpoints, Progress
from tfllm.training.checkpoints.model_state import restore_state, state_of

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(folder: Path, workers: int, **options) -> None:
    places = [f"127.0.0.1:{free_port()}" for _ in range(workers)]
    command = [sys.executable, "-m", "tests.training.replicated_state", str(folder)]
    processes = []
    for index in range(workers):
        environment = dict(os.environ)
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": task})
        processes.append(
            subprocess.Popen(
                [*command, json.dumps(options)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0 and "SAVED" in output, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def check(tmp_path, workers: int = 1, dtype: str = "float32", **options) -> None:
    """Steps 0 to 3 on one device, 3 to 6 elsewhere, and then all on one device again."""
    whole = make_model(dtype, shards=False)
    train(whole, 0, 3)
    checkpoints = Checkpoints(tmp_path, keep=9)
    checkpoints.save(state_of(whole), Progress(step=3))
    train(whole, 3, 6)
    run(tmp_path, workers, dtype=dtype, **options)
    model = make_model(dtype, shards=False)
    state, _ = checkpoints.read(6)
    restore_state(model, state, where="step 6")
    expected = state_of(whole)
    assert state.keys() == expected.keys()
    # Sums in another order; float16 rounds what is summed. AdamW's epsilon of 1e-5 keeps a
    # gradient's rounding, some 1e-9 of these, from becoming more than 1e-4 of a step of 1e-2: three
    # steps are 3e-6, and a fault is a step or more.
    tolerance = 1e-5 if dtype == "float32" else 1e-3
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, atol=tolerance, err_msg=name)
    for mine, theirs in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=tolerance)


def test_a_checkpoint_moves_to_two_replicas_that_share_the_state_and_back(tmp_path):
    check(tmp_path, replicas=2, shards=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"replicas": 2, "shards": False},
        {"replicas": 4, "shards": True},
        {"replicas": 2, "shards": True, "dtype": "mixed_float16"},
        {"replicas": 1, "shards": False, "workers": 2},
        {"replicas": 1, "shards": True, "workers": 2},
    ],
    ids=str,
)
def test_a_checkpoint_moves_between_strategies(tmp_path, options):
    check(tmp_path, **options)
