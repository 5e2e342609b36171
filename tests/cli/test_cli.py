"""The command line as a user sees it."""

import io
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.conftest import make_documents
from tfllm.cli import main
from tfllm.cli.parsing import command_line, parse
from tfllm.cli.settings import settings
from tfllm.config import ModelConfig, TrainingConfig, field_docs

COMMANDS = [
    "prepare",
    "train",
    "launch",
    "report",
    "evaluate",
    "mine",
    "generate",
    "chat",
    "merge",
    "export",
    "check",
    "serve",
    "query",
    "sizes",
    "predict",
    "completion",
]
TINY = [
    "model.num_layers=1",
    "model.embedding_dim=16",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.feed_forward_dim=32",
    "model.max_sequence_length=64",
    "sequence_length=16",
    "batch_size=4",
    "precision=float32",
    "validation_batches=2",
]


@pytest.fixture(scope="module", autouse=True)
def given_peak():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for i, text in enumerate(make_documents(20, seed=5, longest=60)):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(texts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chain") / "data"
    arguments = [str(texts), "--out", str(out), "--vocab-size", "300"]
    assert main(["prepare", *arguments, "--validation-fraction", "0.2"]) == 0
    return out


@pytest.fixture(scope="module")
def run(data) -> Path:
    out = data.parent / "run"
    assert main(["train", *TINY, "--data", str(data), "--out", str(out), "steps=3"]) == 0
    return out


def told(capsys, arguments: list[str], status: int) -> str:
    """The one line on standard error of a command that fails."""
    capsys.readouterr()
    try:
        assert main(arguments) == status
    except SystemExit as error:
        assert error.code == status
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


# ---- help


@pytest.mark.alone
@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)], ids=["tfllm", *COMMANDS])
def test_help_answers_at_once_and_without_tensorflow(command):
    code = (
        "import sys\n"
        "from tfllm.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import resource\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: tfllm")
    assert float(done.stderr) < 0.3


def help_of(capsys, *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(list(words))
    assert exit.value.code == 0
    return capsys.readouterr().out


def test_every_setting_stands_in_the_full_help(capsys):
    text = " ".join(help_of(capsys, "train", "--help-all").split())
    assert "--beta-1 X AdamW: exponential decay rate of the first moment (default: 0.9)" in text
    assert "--rematerialize, --no-rematerialize gradient checkpointing: recompute each" in text
    assert "2 % of the steps" in text
    assert "--schedule {cosine,wsd,constant} learning rate after warmup" in text
    for cls in (TrainingConfig, ModelConfig):
        for name, words in field_docs(cls).items():
            assert f"--{name.replace('_', '-')}" in text and words in text
    assert "default: 1e-05" not in text  # of a model: its size's values count, not ours


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_fits_on_a_screen_and_begins_with_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, command, "--help")
    assert len(text.splitlines()) < 50
    assert f"\nexample:\n  tfllm {command}" in text or command == "completion"
    assert "[]" not in text and "==SUPPRESS==" not in text


def test_the_short_help_of_train_leads_with_what_people_set(capsys):
    text = help_of(capsys, "train", "--help")
    assert text.startswith("usage: tfllm train --data PATH --out DIR [options] [KEY=VALUE ...]")
    common = "data out task model size steps epochs batch-size learning-rate sequence-length"
    for name in (common + " lora-rank precision strategy resume").split():
        assert f"\n  --{name}" in text
    assert "(default: 512)" in text and "--beta-1" not in text
    assert "tfllm train --help-all" in text


def test_what_an_example_shows_can_be_parsed():
    _, commands = command_line()
    for name, command in commands.items():
        lines = command.description.partition("example:\n")[2].splitlines()
        assert lines, name
        for line in lines if name != "completion" else ():
            assert parse(shlex.split(line)[1:]).command == name


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


# ---- settings


def found(*arguments: str) -> dict:
    options = parse(["train", "--data", "d", "--out", "r", *arguments])
    assert options is not None
    return settings(options, "training", "model")


def test_flags_go_over_assignments_and_these_over_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(
        "[training]\nlearning_rate = 1.0\nbatch_size = 1\nsteps = 1\n"
        "[model]\nnum_layers = 1\nsize = 'llama-1m'\n[generation]\ntemperature = 0.5\n"
    )
    given = found(
        *("--config", str(file), "batch_size=2", "--steps", "3", "model.num_layers=4"),
        *("--set", "learning_rate=2", "steps=2"),
    )
    assert given["training"] == {"learning_rate": "2", "batch_size": "2", "steps": "3"}
    assert given["model"] == {"num_layers": "4", "size": "llama-1m"}


def test_assignments_may_stand_anywhere():
    assert found()["training"] == {}
    assert found("--size", "llama-1m", "seed=2")["training"] == {"seed": "2"}
    before = found("learning_rate=3e-4", "--rematerialize", "model.num_layers=4", "seed=1")
    assert before["training"] == {"learning_rate": "3e-4", "rematerialize": True, "seed": "1"}
    assert before["model"] == {"num_layers": "4"}
    assert found("--no-separate-documents")["training"] == {"separate_documents": False}
    assert found("--learning_rate=1")["training"] == {"learning_rate": "1"}
    behind_a_flag = found("beta_1=0.8", "--epochs", "1", "beta_2=0.9")["training"]
    assert behind_a_flag == {"beta_1": "0.8", "epochs": "1", "beta_2": "0.9"}


def test_the_models_settings_are_flags_too():
    given = found("--num-layers", "4", "--no-gated", "num_heads=2", "model.num_layers=3")
    assert given == {
        "training": {},
        "model": {"num_layers": "4", "gated": False, "num_heads": "2"},
    }


def test_texts_may_stand_before_and_behind_the_flags():
    for command in ("generate", "query"):
        for words in (["--top-k", "3", "a", "b=1"], ["a", "--top-k", "3", "b=1"]):
            assert parse([command, "name", *words]).prompt == ["a", "b=1"]
    assert parse(["generate", "run", "--seed", "1", "--", "--a"]).prompt == ["--a"]
    assert parse(["generate", "run", "a", "--seed", "1", "--", "-b"]).prompt == ["a", "-b"]
    assert parse(["prepare", "a", "--out", "d", "b"]).text == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learning_rte=1"], "unknown setting 'learning_rte'; did you mean 'learning_rate'"),
        (["training.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["model.num_layer=1"], "unknown setting 'num_layer'; did you mean 'num_layers'"),
        (["modl.num_layers=1"], "unknown section 'modl'; did you mean 'model'"),
        (["learning-rate=1"], "unknown setting 'learning-rate'; did you mean 'learning_rate'"),
        (["--num-layers", "few"], "num_layers must be a whole number; received 'few'"),
        (["learning_rate=fast"], "learning_rate must be a number; received 'fast'"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--set", "steps"], "a setting is given as KEY=VALUE; received 'steps'"),
        (["batch_size=6", "gradient_accumulation=4"], "must divide batch_size"),
    ],
)
def test_a_wrong_setting_is_named(capsys, arguments, message):
    line = told(capsys, ["train", "--data", "d", "--out", "r", *arguments], 1)
    assert line.startswith("tfllm train: ") and message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nlearning_rte = 1", "section [training]; did you mean 'learning_rate'"),
        ("[training]\nsteps = 'many'", "section [training]: steps must be a whole number"),
        ("[generation]\ntemperatur = 1", "section [generation]; did you mean 'temperature'"),
        ("[trainin]\nsteps = 1", "did you mean 'training'"),
        ("steps = 1", "'steps' is not in a section"),
        ("[training", "is not valid toml"),
    ],
)
def test_a_wrong_settings_file_is_named(capsys, tmp_path, text, message):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    line = told(capsys, ["train", "--data", "d", "--out", "r", "--config", str(file)], 1)
    assert str(file) in line and message in line


def test_a_settings_file_of_a_list_is_refused(capsys, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text("[1]")
    line = told(capsys, ["prepare", "x", "--out", "r", "--config", str(file)], 1)
    assert "must hold sections" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        (["train", "--data", "d", "--out", "r", "--szie", "x"], "did you mean '--size'"),
        (["train", "--dta", "d", "--out", "r"], "did you mean '--data'"),
        (["train", "--out", "r"], "required: --data; see tfllm train --help"),
        (["evaluate", "m", "extra", "--data", "d"], "unexpected argument 'extra'"),
        (["train", "--data", "d", "--out", "r", "word"], "KEY=VALUE; received 'word'"),
        (["prepare", "x", "--out", "r", "vocab_size=300"], "given as --set vocab_size=300"),
        (["generate", "x", "--seed", "1", "top_k=3"], "given as --set top_k=3"),
        (["generate", "x", "y", "-z"], "unexpected argument '-z'"),
        (["serve", "x", "--rest-port", "http"], "invalid int value: 'http'"),
    ],
)
def test_wrong_arguments_get_one_line(capsys, arguments, message):
    assert message in told(capsys, arguments, 1 if arguments[-1] == "word" else 2)


# ---- the chain, on text that the project has never seen


def test_train_evaluate_and_generate(run, data, capsys):
    assert (run / "model/model.safetensors").exists()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(data), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    result = json.loads((run / "run.json").read_text())["result"]
    # Both have rows of the trained length: so the same perplexity, over more batches.
    assert values["perplexity"] == pytest.approx(result["validation_perplexity"], rel=0.05)
    assert main(["evaluate", str(run / "model"), "--data", str(data), "--batches", "2"]) == 0
    shown = capsys.readouterr().out
    assert "of a unigram model" in shown and "bits per byte" in shown

    assert main(["generate", str(run), "the cat", "--max-new-tokens", "5"]) == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("the cat")
    arguments = ["generate", str(run), "the cat", "--max-new-tokens=5", "--no-stream"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == streamed


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_model_is_measured_in_the_dtype_that_it_is_served_in(run, data, capsys, dtype):
    perplexities = []
    for given in ("float32", dtype):
        capsys.readouterr()
        command = ["evaluate", str(run), "--data", str(data), "--batches", "2", "--dtype", given]
        assert main([*command, "--json"]) == 0
        perplexities.append(json.loads(capsys.readouterr().out)["perplexity"])
    assert perplexities[0] != perplexities[1] == pytest.approx(perplexities[0], rel=0.02)


def test_a_prompt_may_come_through_a_pipe(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat"))
    assert main(["generate", str(run), "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("the cat")


def test_a_prompt_that_is_refused_is_not_printed(run, capsys, monkeypatch):
    too_long = "the cat " * 200
    assert "context of 64 tokens" in told(capsys, ["generate", str(run), too_long], 1)
    assert main(["generate", str(run), too_long]) == 1
    assert not capsys.readouterr().out
    typed = iter([too_long, "the cat", ""])  # nor does it end a conversation
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert main(["generate", str(run), "--max-new-tokens", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("the cat") and "context of 64 tokens" in captured.err


def test_export_and_check(run, data, capsys):
    base = data.parent / "saved_models/mine"
    assert main(["export", str(run), str(base), "--max-new-tokens", "4"]) == 0
    assert f"wrote {base / '1'}" in capsys.readouterr().out
    assert (base.parent / "models.config").exists()
    assert main(["check", str(base), "--no-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_a_loss_that_turns_nan_is_one_line_and_status_1(data, capsys):
    out = data.parent / "nan"
    arguments = ["train", *TINY, "--data", str(data), "--out", str(out), "steps=20"]
    capsys.readouterr()
    wild = ["learning_rate=1e30", "schedule=constant", "warmup_steps=0", "checkpoint_every=1"]
    assert main([*arguments, *wild, "validate_every=100", "clip_norm=none"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("tfllm train: the ") and "at step" in line
    assert "lower learning rate" in line
    from tfllm.training.checkpoints.checkpoints import Checkpoints

    checkpoints = Checkpoints(out / "checkpoints", 2)
    assert f"that of step {checkpoints.steps()[-1]} " in line
    assert checkpoints.progress(checkpoints.steps()[-1]).step >= 1


def test_warnings_of_ours_are_lines_too(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("some words to learn from " * 50)
    arguments = [str(tmp_path / "*.txt"), "--out", str(tmp_path / "out"), "--vocab-size", "270"]
    assert main(["prepare", *arguments]) == 0
    error = capsys.readouterr().err
    assert "tfllm prepare: warning: 1 of 2 files contain no text" in error
    assert "UserWarning" not in error and ".py:" not in error


MILLION = ["sequence_length=1_000_000", "model.max_sequence_length=1_000_000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "{none}", "--out", "{none}"], "does not exist; give a text file"),
        (
            ["train", "--data", "{data}", "--out", "{run}"],
            "contains a run whose sequence_length is 16; received 512",
        ),
        (["train", "--data", "{data}", "--out", "{none}", "--resume"], "no run to resume"),
        (
            ["train", "--data", "{data}", "--out", "{run}", "--resume", "learning_rate=7"],
            "contains a run whose learning_rate is 0.001; received 7.0",
        ),
        (["train", "--data", "{data}", "--out", "{none}", "model.vocab_size=9"], "does not fit"),
        (
            ["train", "--data", "{data}", "--out", "{none}", *MILLION],
            "shorter than one row",
        ),
        (["train", "--data", "{data}", "--out", "{none}", "model.num_heads=3"], "divisible"),
        (["evaluate", "{none}", "--data", "{data}"], "there is no folder"),
        (["evaluate", "{run}", "--data", "{data}", "--sequence-length", "0"], "sequence_length"),
        (["evaluate", "{run}", "--data", "{data}", "--batch-size", "0"], "batch_size"),
        (["evaluate", "{run}", "--data", "{data}", "--batches", "-1"], "num_batches"),
        (["check", "{none}"], "there is no folder"),
        (["export", "{run}", "{none}", "--num-samples", "2"], "num_samples must be 1"),
        (["query", "m", "a", "--stream", "--num-samples", "2"], "num_samples must be 1"),
        (["query", "mine", "hello", "--address", "127.0.0.1:9"], "no server answers"),
    ],
)
def test_bad_input_gets_one_line(run, data, tmp_path, capsys, arguments, message):
    places = {"none": tmp_path / "none", "data": data, "run": run}
    assert message in told(capsys, [a.format(**places) for a in arguments], 1)
    assert not (tmp_path / "none").exists()


# ---- processes of their own


def tfllm(*arguments: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tfllm.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_and_resume_goes_on(data, tmp_path, number):
    out = tmp_path / "run"
    training = ["train", "--data", data, "--out", out]
    process = tfllm(*training, *TINY, "steps=200000", "checkpoint_every=100000")
    deadline = time.monotonic() + 300
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} after step" in output and "--resume" in output
    assert not any(noise in errors for noise in ("Traceback", "WARNING", "oneDNN", "cuda"))
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = json.loads((checkpoint / "progress.json").read_text())["step"]
    assert f"after step {step}, which is saved" in output

    process = tfllm(*training, "--resume")
    while f'"step": {step + 1},' not in (out / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 128 + number


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.alone
def test_serve_and_query(run, tmp_path):
    base = tmp_path / "saved_models/mine"
    assert main(["export", str(run), str(base), "--max-new-tokens", "4"]) == 0
    rest, grpc = free_port(), free_port()
    server = tfllm("serve", base.parent, "--rest-port", rest, "--grpc-port", grpc)
    address = f"127.0.0.1:{rest}"
    try:
        deadline = time.monotonic() + 300
        while True:
            query = tfllm("query", "mine", "the cat", "--address", address)
            text, error = query.communicate(timeout=300)
            if query.returncode == 0:
                break
            assert server.poll() is None and time.monotonic() < deadline, error
            assert len(error.strip().splitlines()) == 1
            time.sleep(1)
        assert text.startswith("the cat") and not error
        for flag, port in (("--stream", rest), ("--grpc", grpc)):
            arguments = ["mine", "the cat", flag, "--max-new-tokens", "4"]
            query = tfllm("query", *arguments, "--address", f"127.0.0.1:{port}")
            assert query.communicate(timeout=300) == (text, "")
        query = tfllm("query", "mine", "the cat", "--score", "--address", address)
        assert "perplexity" in query.communicate(timeout=300)[0]
        sampled = ["the cat", "a", "--temperature", "1", "--seed", "5", "--max-new-tokens", "4"]
        sampled += ["--num-samples", "2"]
        query = tfllm("query", "mine", *sampled, "--address", address)
        lines = query.communicate(timeout=300)[0]
        local = tfllm("generate", run, *sampled)
        assert lines == local.communicate(timeout=300)[0] and lines.count("the cat") >= 2
        query = tfllm("query", "nobody", "the cat", "--address", address)
        error = query.communicate(timeout=300)[1]
        assert query.returncode == 1 and len(error.strip().splitlines()) == 1
    finally:
        server.send_signal(signal.SIGTERM)
        output, log = server.communicate(timeout=300)
    assert server.returncode == 0
    assert str(rest) in log + output and "Traceback" not in log
