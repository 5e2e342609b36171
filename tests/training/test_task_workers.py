"""Two workers train a task's model like one, and agree on callbacks."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

from tests.distribution.processes import LONG, ROOT, free_ports, tf_config
from tests.optimization.reference import checkpoint_bounds
from tests.rounding import additions_of, assert_within, rounding
from tests.tasks.tiny_cases import CASES

WORDS = "--size bert-tiny --num-layers 1 --embedding-dim 16 --num-heads 2"
WORDS += " --dropout 0 --sequence-length 48 --batch-size 8 --steps 4 --precision float32"
WORDS += " --learning-rate 1e-2 --validate-every 2 --checkpoint-every 1 --keep-checkpoints 9"
PREPARED = ["--vocab-size", "120", "--validation-fraction", "0.2"]


@pytest.mark.slow
def test_two_workers_end_with_the_weights_of_one(tmp_path):
    data = tmp_path / "data.jsonl"
    rows = CASES["classification"].records()
    rows[0]["text"] += " so" * 30  # the batches' widths differ, and the workers' with them
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, launch, prepare in (
        ("one", [], PREPARED),
        ("two", ["launch", "--workers", "2", "--no-pin", "--"], []),
    ):
        command = [sys.executable, "-m", "tfllm.cli", *launch, "train", "--task", "classification"]
        command += ["--data", str(data), "--out", str(tmp_path / name), *WORDS.split(), *prepare]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        data = tmp_path / name / "data"  # a new vocabulary may break ties in another way
    from tfllm.pretrained import load

    one, two = (
        {
            int(path.name.removeprefix("step-")): load_file(path / "state.safetensors")
            for path in (tmp_path / name / "checkpoints").iterdir()
        }
        for name in ("one", "two")
    )
    assert list(sorted(one)) == list(sorted(two)) == [1, 2, 3, 4]
    # Forth, back, and over the examples, whose means over their tokens are part of the way.
    config = load(tmp_path / "one" / "model").model.config
    additions = additions_of(config, 48)
    bounds, of_loss = checkpoint_bounds(one, 1e-2, 2 * (additions + 48) + 8)
    for path, bound in bounds.items():
        assert_within(two[4][f"model/{path}"], one[4][f"model/{path}"], bound, path)
    whole = [load(tmp_path / name / "model").model for name in ("one", "two")]
    for here, there in zip(*(model.trainable_weights for model in whole), strict=True):
        assert_within(here, there, max(bound.max() for bound in bounds.values()), here.path)
    found = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("one", "two")]
    assert found[0]["data"]["digest"] == found[1]["data"]["digest"]
    assert found[1]["result"]["workers"] == 2
    one, two = (run["result"]["validation_loss"] for run in found)
    assert_within(one, two, of_loss + rounding(additions + 48, one))


@pytest.mark.slow
@pytest.mark.alone
def test_callbacks_run_on_the_chief_and_end_all_at_the_same_step(data, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [sys.executable, "-m", "tests.training.callbacks_run"]
    processes = [
        subprocess.Popen(
            [*command, str(data.folder), str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "TF_CONFIG": tf_config(addresses, index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=2 * LONG)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-3000:]
    one, two = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    assert (one["step"], one["stopped_early"]) == (two["step"], two["stopped_early"]) == (8, True)
    assert one["history"] == two["history"] and len(one["history"]["val_loss"]) == 2
    assert two["calls"] == []
    begin, *calls, end = one["calls"]
    assert (begin, end) == ("begin", "end")
    epochs = [call for call in calls if isinstance(call, dict)]
    assert [call[0] for call in calls if isinstance(call, list)] == list(range(8))
    assert [epoch["epoch"] for epoch in epochs] == [0, 1] == [calls[4]["epoch"], calls[9]["epoch"]]
    for name, values in one["history"].items():
        assert name == "step" or [epoch[name] for epoch in epochs] == values
