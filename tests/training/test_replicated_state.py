"""A checkpoint can be loaded with other numbers of replicas and workers, sharded or not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.optimization import reference
from tests.rounding import SIDES, additions_of, assert_within, rounding
from tests.training.replicated_state import batches, make_model, train
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
    # Steps 3 to 6 add up in another order; float16 rounds what is added up.
    bounds = reference.precision_bounds(
        lambda: make_model("float32", shards=False),
        lambda: reference.NumpyAdamW(1e-2, 0.1, beta_2=0.999, epsilon=1e-5),
        batches(0, 6),
        dtype.removeprefix("mixed_"),
        moments=True,
    )
    trained = [v.path.partition("/")[2] for v in whole.trainable_variables]
    kinds = ("model/", "optimizer/momentum/", "optimizer/velocity/")
    bounds = dict(
        zip([kind + path for kind in kinds for path in trained], bounds.weights, strict=True)
    )
    assert bounds.keys() | {"optimizer/iterations"} <= expected.keys()
    # 1 - 0.999^t, by whose root a step is corrected, has few digits of those that 0.999^t has.
    correction = sum(1e-2 * rounding(1, 0.5 / (1 - 0.999**t)) for t in (4, 5, 6))
    rows, time = batches(0, 1)[0][0].shape
    # Through the model, back, and over the tokens, whose gradients may cancel out in a value.
    additions = 2 * additions_of(whole.config, time) + rows * time
    for name, value in expected.items():
        if name in bounds:  # each of three steps rounds them a few times
            own = rounding(3 * 3) * np.abs(value) + correction * name.startswith("model/")
            if name.startswith("optimizer/"):
                own = own + (2 if "velocity" in name else 1) * rounding(additions, value)
            assert_within(state[name], value, SIDES * bounds[name] + own, name)
        else:
            np.testing.assert_array_equal(state[name], value, err_msg=name)
    for name, mine in zip(trained, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(mine, state[f"model/{name}"], err_msg=name)


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
