"""Paths to something other than a command expects, and settings given among texts."""

import json

import pytest

from tfllm.cli import main
from tfllm.cli.parsing import parse
from tfllm.cli.settings import settings


def told(capsys, arguments):
    """What a command that fails prints on standard error."""
    try:
        status = main([str(word) for word in arguments])
    except SystemExit as error:
        status = error.code
    assert status, arguments
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


@pytest.fixture
def places(tmp_path):
    """A folder of each kind, as far as it takes to know it."""
    for name, file, content in (
        ("data", "manifest.json", {"format": "tfllm-tokens"}),
        ("run", "run.json", {}),
        ("model", "config.json", {"model_type": "llama"}),
        ("adapter", "adapter_config.json", {}),
        ("served/1", "saved_model.pb", {}),
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text(json.dumps(content))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The cat sat on the mat.")
    return tmp_path


COMMANDS = {
    "generate": ["generate", "PATH", "hi"],
    "chat": ["chat", "PATH", "hi"],
    "check": ["check", "PATH"],
    "serve": ["serve", "PATH"],
    "export": ["export", "PATH", "OUT"],
    "evaluate": ["evaluate", "PATH", "--data", "DATA"],
    "evaluate --data": ["evaluate", "MODEL", "--data", "PATH"],
    "train --data": ["train", "--data", "PATH", "--out", "OUT"],
    "train --model": ["train", "--data", "TEXTS", "--out", "OUT", "--model", "PATH/"],
    "predict": ["predict", "PATH", "text=hi"],
    "merge": ["merge", "PATH", "ADAPTER", "--out", "OUT"],
    "report": ["report", "PATH", "--out", "OUT"],
    "prepare": ["prepare", "PATH", "--out", "OUT"],
    "prepare --tokenizer": ["prepare", "DATA", "--out", "OUT", "--tokenizer", "PATH"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_does_not_exist_says_so(command, places, capsys):
    known = {"OUT": "out", "DATA": "data", "TEXTS": "texts", "MODEL": "model", "ADAPTER": "adapter"}
    words = [
        places / known[word] if word in known else word.replace("PATH", str(places / "no-such"))
        for word in COMMANDS[command]
    ]
    message = told(capsys, words)
    assert "no-such" in message and ("does not exist" in message or "there is no" in message)


def test_prepared_data_in_place_of_a_model_says_what_to_do(places, capsys):
    for command in (["generate"], ["chat"], ["predict"], ["export"]):
        message = told(capsys, [*command, places / "data", "hi"])
        assert "data is prepared data, which `tfllm prepare` wrote; train a model on it" in message
        assert f"tfllm train --data {places / 'data'} --out" in message


def test_what_is_to_be_checked_or_served_is_exported_first(places, capsys):
    for command, ports in (("check", []), ("serve", ["--rest-port", "0", "--grpc-port", "0"])):
        for kind in ("run", "model"):
            message = told(capsys, [command, places / kind, *ports])
            assert f"export {'its model' if kind == 'run' else 'it'} first" in message
            assert f"tfllm export {places / kind} saved_models/NAME" in message
        assert "is prepared data" in told(capsys, [command, places / "data", *ports])


def test_other_kinds_of_folders_are_told_apart(places, capsys):
    assert "is an exported model" in told(capsys, ["generate", places / "served", "hi"])
    message = told(capsys, ["generate", places / "adapter", "hi"])
    assert "is an adapter" in message and "--adapter" in message
    message = told(capsys, ["train", "--data", places / "run", "--out", places / "out"])
    assert "is a run" in message


def given(*words):
    options = parse(words)
    texts = options.message if options.command == "chat" else options.prompt
    return texts, settings(options, "generation")["generation"]


@pytest.mark.parametrize("command", ["generate", "chat", "query"])
def test_a_setting_among_texts_is_a_setting(command):
    assert given(command, "run", "hi", "top_p=0.5") == (["hi"], {"top_p": "0.5"})
    assert given(command, "run", "top-k=3", "hi", "you", "seed=1") == (
        ["hi", "you"],
        {"top_k": "3", "seed": "1"},
    )
    assert given(command, "run", "hi", "--temperature", "1", "generation.top_p=0.5") == (
        ["hi"],
        {"top_p": "0.5", "temperature": "1"},
    )


@pytest.mark.parametrize("command", ["generate", "chat", "query"])
def test_text_with_an_equals_sign_is_text(command):
    for text in ("x=1", "a top_p=2", "if a==b:", "E = mc2", "https://x.org/?q=1"):
        assert given(command, "run", text) == ([text], {})
    assert given(command, "run", "--", "top_p=2") == (["top_p=2"], {})
    assert given(command, "run", "hi", "top_k=1", "--", "top_p=2", "seed=3") == (
        ["hi", "top_p=2", "seed=3"],
        {"top_k": "1"},
    )


def test_a_setting_that_is_misspelt_or_out_of_range_is_refused(places, capsys):
    message = told(capsys, ["generate", places / "model", "hi", "top_q=0.5"])
    assert "unknown setting 'top_q'; did you mean" in message and "put it after --" in message
    message = told(capsys, ["generate", places / "model", "hi", "top_p=2"])
    assert "top_p must" in message and "2" in message
    message = told(capsys, ["chat", places / "model", "hi", "temperature=-1"])
    assert "temperature must" in message


def test_the_inputs_of_a_signature_are_no_settings():
    words = ["query", "m", "prompt=hi", "temperature=0.5", "--signature", "generate"]
    assert given(*words) == (["prompt=hi", "temperature=0.5"], {})
