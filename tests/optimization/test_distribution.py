"""Two replicas train like one; tests/distribution/test_equivalence.py has the full matrix."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.optimization import reference
from tests.optimization.distributed_run import CONFIG
from tests.optimization.tiny_training import LEARNING_RATE
from tests.rounding import assert_rounded, assert_within
from tfllm.models.causal_lm import CausalLM

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


def check(case, tmp_path):
    one, history = run(1, tmp_path, **case)
    two, history_of_two = run(2, tmp_path, **case)
    batches = reference.make_batches(np.random.default_rng(0), num=6, rows=4, **case)
    optimizer = reference.NumpyAdamW(LEARNING_RATE)
    other = reference.train(CausalLM(CONFIG, seed=3), batches, optimizer, clip_norm=0.5)
    assert history.keys() == history_of_two.keys()
    for name in history:
        assert_rounded(history_of_two[name], history[name], other.additions, message=name)
    for a, b, bound in zip(one, two, other.bounds, strict=True):
        assert_within(b, a, bound)


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_equal_one(name, tmp_path):
    check(CASES[name], tmp_path)
