"""`tfllm evaluate --harness`: a real, tiny model, from the command line."""

import json

import pytest

from tfllm.cli import main
from tfllm.config import ConfigError, ModelConfig
from tfllm.evaluation.harness import HARNESSES, run_harness
from tfllm.evaluation.harness.by_name import check_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tfllm.models.causal_lm import CausalLM
    from tfllm.pretrained import save
    from tfllm.tokenizers import BytePairTokenizer

    tokenizer = BytePairTokenizer.train(["a b c d " * 20], 270)
    config = ModelConfig(tokenizer.vocab_size, 16, 1, 2, max_sequence_length=256)
    return save(CausalLM(config, seed=1), tmp_path_factory.mktemp("m") / "model", tokenizer)


def test_choices_from_the_command_line(folder, tmp_path, capsys):
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    record = {"ctx": "a b", "endings": ["c", "d d"], "label": 0}
    data.write_text(f"{json.dumps(record)}\n" * 3)
    command = ["evaluate", str(folder), "--harness", "multiple_choice", "--data", str(data)]
    assert main([*command, "--limit", "2", "--predictions", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["harness"] == "multiple_choice"
    first = told["metrics"][0]
    assert first["name"] == "acc_norm"
    assert first["num_examples"] == 2
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(answers) == 2
    assert first["value"] == float(answers[0]["chosen_length_normalised"] == 0)


def test_programs_are_run_only_where_that_is_allowed(folder, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    problem = {
        "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() == 1",
    }  # fmt: skip
    data.write_text(json.dumps(problem))
    command = ["evaluate", str(folder), "--harness", "humaneval", "--data", str(data)]
    assert main(command) == 1
    assert "--allow-code-execution on the command line" in capsys.readouterr().err
    assert main([*command, "--allow-code-execution", "--max-new-tokens", "3"]) == 0
    told = capsys.readouterr()
    assert "warning: this runs programs that a model wrote" in told.err
    assert "pass@1" in told.out


def test_a_setting_of_another_harness_is_told(folder, capsys):
    command = ["evaluate", str(folder), "--data", "x.jsonl", "--harness", "multiple_choice"]
    assert main([*command, "--chat"]) == 1
    assert (
        "the harness multiple_choice has no setting chat; it has limit" in capsys.readouterr().err
    )
    check_settings("exact_match", {"temperature": 0.5, "num_shots": 2})
    with pytest.raises(ConfigError, match="unknown harness 'mmlu'"):
        run_harness("mmlu", None, "x.jsonl")
    assert list(HARNESSES) == [
        "multiple_choice", "exact_match", "humaneval", "rolling_perplexity"
    ]  # fmt: skip
