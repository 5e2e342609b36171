"""`tfllm launch`: its arguments, and what it passes to the launcher."""

import sys

import pytest

from tfllm.cli import main
from tfllm.distribution import launching

TRAIN = ["train", "--data", "d", "--out", "r"]


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """What `launch` was called with, instead of starting anything."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "launch", lambda *a, **k: calls.append((*a, k)) or 75)
    return calls


def test_the_workers_get_the_command_behind_the_dashes_as_it_is(launched):
    command = [*TRAIN, "steps=3", "--learning_rate", "1e-3", "--", "batch_size=4"]
    assert main(["launch", "--", *command]) == 75
    argv, settings = launched[0]
    assert argv == [sys.executable, "-m", "tfllm.cli", *command]
    settings["logs"] = str(settings["logs"])
    assert settings == {"num_workers": 2, "logs": "r/logs", "restarts": 0, "pin": True}


def test_its_own_flags_stand_before_the_dashes(launched):
    flags = ["--workers", "3", "--restarts=4", "--logs", "elsewhere", "--no-pin"]
    assert main(["launch", *flags, "--", *TRAIN]) == 75
    expected = {"num_workers": 3, "logs": "elsewhere", "restarts": 4, "pin": False}
    assert launched[0][1] == expected


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["launch"], 2, "the workers' command must follow --"),
        (["launch", "--workers", "2", *TRAIN], 2, "the workers' command must follow --"),
        (["launch", "--"], 2, "the workers' command must follow --"),
        (["launch", "--", "tfllm", *TRAIN], 2, "follow --: tfllm launch"),
        (["launch", "--", "generate", "x"], 2, "received 'generate', which runs in one process"),
        (["launch", "--", "launch", "--", *TRAIN], 2, "received 'launch', which runs in one"),
        (["launch", "--wrkers", "2", "--", *TRAIN], 2, "did you mean '--workers'"),
        (["launch", "--", "train", "--out", "r"], 2, "tfllm train: the following arguments"),
        (["launch", "--", *TRAIN, "--epocs", "1"], 2, "did you mean '--epochs'"),
        (["launch", "--", *TRAIN, "epocs=1"], 1, "did you mean 'epochs'"),
        (["launch", "--", *TRAIN, "batch_size=0"], 1, "batch_size must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_a_worker_starts(
    launched, capsys, arguments, status, message
):
    try:
        assert main(arguments) == status
    except SystemExit as error:
        assert error.code == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not launched


def test_a_folder_of_something_else_gets_no_logs(launched, capsys, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/thesis.txt").write_text("precious")
    assert main(["launch", "--", *TRAIN]) == 1
    assert "r has other files and no run" in capsys.readouterr().err
    assert not launched and not (tmp_path / "r/logs").exists()
