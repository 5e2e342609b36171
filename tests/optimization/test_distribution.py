"""Two replicas train as one does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def run(replicas, tmp_path, **changes):
    options = {"last_rows": None, "dropout": 0.0, "dtype": "float32", "accumulation": 1}
    options |= {"compile": {}, **changes}
    out = tmp_path / f"{replicas}.npz"
    command = [sys.executable, "-m", "tests.optimization.distributed_run"]
    command += [str(replicas), str(out), json.dumps(options)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    line = next(s for s in result.stdout.splitlines() if s.startswith("HISTORY"))
    with np.load(out) as arrays:
        return list(arrays.values()), json.loads(line.removeprefix("HISTORY"))


CASES = {
    # three rows on two replicas: two and one
    "an uneven last batch": {"last_rows": 3},
}
SLOW_CASES = {
    "accumulation, metrics": {
        "accumulation": 2,
        "compile": {"metrics": ["accuracy"], "steps_per_execution": 4},
    },
    "plain": {},
    "accumulation of an uneven last batch": {"last_rows": 3, "accumulation": 2},
    "a replica without rows": {"last_rows": 1},
    "xla": {"compile": {"jit_compile": True}},
    "float16": {"dtype": "mixed_float16"},
}


def check(case, tmp_path):
    one, history = run(1, tmp_path, **case)
    two, history_of_two = run(2, tmp_path, **case)
    tolerance = 1e-3 if case.get("dtype") else 1e-5
    assert history.keys() == history_of_two.keys()
    for name in history:
        np.testing.assert_allclose(history_of_two[name], history[name], rtol=10 * tolerance)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_equal_one(name, tmp_path):
    check(CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_CASES)
def test_two_replicas_equal_one_here_too(name, tmp_path):
    check(SLOW_CASES[name], tmp_path)


@pytest.mark.slow
def test_dropout_runs_on_two_replicas(tmp_path):
    weights, history = run(2, tmp_path, dropout=0.3, accumulation=2)
    without, _ = run(2, tmp_path, accumulation=2)
    again, _ = run(2, tmp_path, dropout=0.3, accumulation=2)
    assert np.all(np.isfinite(history["loss"]))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(weights, without, strict=True))
    for a, b in zip(weights, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
