"""Old names still work, in flags, settings, files and commands: a size was called a preset."""

import json

import pytest

from tests.generation.toy_text_models import TEXTS
from tfllm.cli import main
from tfllm.cli.parsing import command_line, parse
from tfllm.cli.settings import settings, settings_among
from tfllm.config import GenerationConfig

TRAIN = ["train", "--data", "d", "--out", "r"]


def model_settings(*arguments: str) -> dict:
    options = parse([*TRAIN, *arguments])
    assert options is not None
    return settings(options, "training", "model")["model"]


@pytest.fixture
def old_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[model]\npreset = "llama-1m"\nnum_layers = 1\n[training]\nsteps = 2\n')
    return file


@pytest.mark.parametrize(
    "words",
    [
        ["--preset", "llama-1m"],
        ["--preset=llama-1m"],
        ["preset=llama-1m"],
        ["model.preset=llama-1m"],
        ["--set", "preset=llama-1m"],
    ],
)
def test_an_old_word_of_the_command_line_means_the_size(words):
    assert model_settings(*words) == {"size": "llama-1m"}


def test_an_old_settings_file_means_the_size_and_the_command_line_goes_over_it(old_file):
    file = ["--config", str(old_file)]
    assert model_settings(*file) == {"size": "llama-1m", "num_layers": 1}
    for words in (["--size", "gpt2"], ["size=gpt2"], ["--preset", "gpt2"], ["preset=gpt2"]):
        assert model_settings(*file, *words) == {"size": "gpt2", "num_layers": 1}


@pytest.mark.parametrize(
    "words",
    [["--size", "gpt2", "--preset", "llama-1m"], ["preset=llama-1m", "--set", "model.size=gpt2"]],
)
def test_both_names_at_once_are_refused(words, capsys):
    assert main([*TRAIN, *words]) == 1
    error = capsys.readouterr().err
    assert "preset is the old name of size" in error
    assert "received size='gpt2' and preset='llama-1m'; leave out preset" in error


def test_both_names_in_a_file_are_refused_and_the_file_is_named(old_file, capsys):
    old_file.write_text('[model]\npreset = "llama-1m"\nsize = "gpt2"\n')
    assert main([*TRAIN, "--config", str(old_file)]) == 1
    assert f"{old_file}, section [model]: preset is the old name" in capsys.readouterr().err
    old_file.write_text('preset = "llama-1m"\n')
    assert main([*TRAIN, "--config", str(old_file)]) == 1
    assert "it belongs in [model]" in capsys.readouterr().err


def test_the_old_command_lists_the_sizes(capsys):
    assert main(["sizes"]) == 0
    listed = capsys.readouterr().out
    assert main(["presets"]) == 0
    assert capsys.readouterr().out == listed
    assert "llama-15m" in listed and "bert-mini" in listed and "t5-small" in listed


@pytest.mark.parametrize(
    "words",
    [
        ["--not-followed", "none"],
        ["--set", "not_followed=none"],
        ["--set", "generation.not_followed=none"],
    ],
)
def test_settings_that_are_not_supported_were_called_not_followed(words, tmp_path):
    expected = {"unsupported_settings": "none"}
    options = parse(["export", "m", "e", *words])
    assert settings(options, "generation")["generation"] == expected
    file = tmp_path / "generation.toml"
    file.write_text("[generation]\nnot_followed = []\n")
    options = parse(["export", "m", "e", "--config", str(file)])
    assert settings(options, "generation")["generation"] == {"unsupported_settings": []}
    assert settings_among(["Hi", "not_followed=none"], "tfllm generate m") == (
        ["Hi"],
        ["not_followed=none"],
    )
    config = GenerationConfig(unsupported_settings=("guidance_scale=2",))
    assert config.with_options({"not_followed": ()}).unsupported_settings == ()


def test_report_opens_no_browser_with_the_old_flag_either():
    for flag in ("--no-browser", "--open-nothing"):
        assert parse(["report", "run", flag]).no_browser


def test_no_help_shows_an_old_name():
    parser, commands = command_line()
    texts = [parser.format_help()]
    for command in commands.values():
        texts += [command.format_help(), command.format_full_help()]
    for old in ("preset", "not-followed", "open-nothing"):
        assert not [text for text in texts if old in text]


def test_a_run_that_was_begun_with_the_old_name_goes_on_with_either(
    old_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
    text, run = tmp_path / "text.jsonl", tmp_path / "run"
    lines = [json.dumps({"text": f"{TEXTS[0]} {i}. " * 20}) for i in range(9)]
    text.write_text("\n".join(lines) + "\n")
    command = (
        f"train --data {text} --out {run} --vocab-size 300 --num-layers 1 --embedding-dim 16 "
        "--num-heads 2 --num-kv-heads 1 --feed-forward-dim 32 --sequence-length 16 --batch-size 2 "
        "--precision float32"
    ).split()
    assert main([*command, "--config", str(old_file)]) == 0
    began = json.loads((run / "run.json").read_text())
    for name in ("--preset", "--size"):
        assert main([*command, name, "llama-1m", "--steps", "2"]) == 0
        assert json.loads((run / "run.json").read_text())["model"] == began["model"]
    capsys.readouterr()
    assert main([*command, "--preset", "gpt2-1m", "--steps", "2"]) == 1
    assert "contains a run whose model's" in capsys.readouterr().err
