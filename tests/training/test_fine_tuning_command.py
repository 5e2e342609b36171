"""Fine-tuning from the command line: from JSON lines and a model folder to a merged model."""

import json

import numpy as np
import pytest

from tests.data.chat_examples import chat_tokenizer, conversations, write_lines
from tfllm import pretrained
from tfllm.cli import main
from tfllm.config import GenerationConfig, ModelConfig, PrepareConfig
from tfllm.data import open_data
from tfllm.models.causal_lm import CausalLM
from tfllm.training import train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = chat_tokenizer()
    config = ModelConfig(tokenizer.vocab_size, 16, 1, 2, max_sequence_length=64)
    folder = tmp_path_factory.mktemp("base") / "model"
    generation = GenerationConfig(max_new_tokens=5)
    return pretrained.save(CausalLM(config, seed=5), folder, tokenizer, generation=generation)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    records = [*conversations(40), {"messages": []}]
    examples = write_lines(folder / "chat.jsonl", records)
    command = ["train", "--data", str(examples), "--model", str(base), "--out", str(folder / "run")]
    command += ["--lora-rank", "2", "--lora-targets", "o_proj,down_proj", "--learning-rate", "0.05"]
    command += ["steps=25", "sequence_length=64", "--precision", "float32", "--batch-size", "4"]
    command += ["--skip-bad-records", "--validation-fraction", "0.2"]
    assert main(command) == 0
    return folder / "run"


def told(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_a_run_from_json_lines_ends_with_adapter_and_model(run):
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert (run / "model" / "config.json").is_file()
    values = json.loads((run / "run.json").read_text())
    assert values["training"]["lora_targets"] == ["o_proj", "down_proj"]
    assert any("1 bad" in note for note in values["data"]["notes"]), values["data"]["notes"]


def test_merging_gives_the_model_of_the_run(run, base, tmp_path, capsys):
    out = told(capsys, "merge", base, run / "adapter", "--out", tmp_path / "merged")
    assert str(tmp_path / "merged") in out
    ours, theirs = (pretrained.load(f) for f in (tmp_path / "merged", run / "model"))
    for mine, other in zip(ours.model.weights, theirs.model.weights, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=mine.path)
    assert ours.generation == theirs.generation == GenerationConfig(max_new_tokens=5)


@pytest.mark.slow
def test_a_model_with_its_adapter_is_the_merged_one(run, base, capsys):
    data = ("--data", run / "data", "--json", "--sequence-length", "64")
    merged = json.loads(told(capsys, "evaluate", run, *data))
    adapted = json.loads(told(capsys, "evaluate", base, "--adapter", run / "adapter", *data))
    alone = json.loads(told(capsys, "evaluate", base, *data))
    assert adapted == merged
    assert merged["loss"] < alone["loss"] - 0.02
    text = told(capsys, "generate", run, "a b", "--no-stream")
    with_it = told(capsys, "generate", base, "a b", "--adapter", run / "adapter", "--no-stream")
    assert text == with_it


def test_what_does_not_belong_together_is_refused(run, base, capsys, tmp_path):
    def refused(*words):
        assert main([str(word) for word in words]) == 1
        return capsys.readouterr().err

    data = ("--data", run / "data", "--out", tmp_path / "run")
    error = refused("train", *data, "--model", base, "--size", "llama-1m")
    assert "a pretrained model has its own architecture: leave out llama-1m" in error
    error = refused("train", *data, "--model", base, "--set", "model.num_layers=3")
    assert "leave out num_layers" in error
    error = refused("train", *data, "--lora-rank", "2")
    assert "only a pretrained model can be trained in part; name one (--model PATH)" in error
    error = refused("merge", base, run, "--out", tmp_path / "merged")
    assert "adapter_config.json" in error
    assert not (tmp_path / "run").exists() and not (tmp_path / "merged").exists()


def test_columns_of_a_table_are_named_as_for_tasks(base, tmp_path, capsys):
    rows = [f"how {i} are you?,fine {i},7,x" for i in range(12)]
    table = tmp_path / "a.csv"
    table.write_text("\n".join(["q,a,id,label", *rows]) + "\n")
    command = ["train", "steps=1", "sequence_length=32", "batch_size=2", "precision=float32"]
    command += ["--data", str(table), "--model", str(base), "--out", str(tmp_path / "run")]
    command += ["--columns", "prompt=q", "response=a"]
    assert main(command) == 1
    assert "a.csv, line 2: 'label' of an example must be true or false" in capsys.readouterr().err
    assert main([*command, "--ignore-keys", "label"]) == 0
    data = open_data(tmp_path / "run" / "data")
    assert data.records == "examples" and data.manifest["unused_keys"] == {"id": 12, "label": 12}
    assert main([*command, "--ignore-keys", "label"]) == 0  # it is finished, and the same
    columns = {"prompt": "q", "response": "a"}
    how = PrepareConfig(ignore_keys=("label",))
    options = {"steps": 1, "sequence_length": 32, "batch_size": 2, "precision": "float32"}
    in_python = train(
        table, tmp_path / "again", base, columns=columns, prepare=how, verbose=False, **options
    )
    again = open_data(in_python.folder / "data")
    assert again.manifest["splits"] == data.manifest["splits"]
    with pytest.raises(ValueError, match="all files are validation files"):
        train(table, tmp_path / "c", base, validation=table)
