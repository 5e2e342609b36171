"""The command line for a task: train, evaluate, predict, export, query."""

import json
import random
import re

import pytest

from tests.rounding import in_double
from tests.tasks.tiny_cases import CASES
from tfllm.cli import main
from tfllm.cli.parsing import parse
from tfllm.cli.settings import columns_of, record_of, rows_of, settings
from tfllm.config import ConfigError

WORDS = "--size bert-tiny --num-layers 1 --embedding-dim 16 --num-heads 2 --vocab-size 120"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `tfllm train --task`, from a file whose columns have other names."""
    folder = tmp_path_factory.mktemp("cli")
    rows = CASES["classification"].records()
    random.Random(0).shuffle(rows)
    lines = [json.dumps({"review_text": r["text"], "stars": r["label"]}) for r in rows]
    (folder / "train.jsonl").write_text("\n".join(lines[:40]) + "\n")
    (folder / "test.jsonl").write_text("\n".join(lines[40:]) + "\n")
    command = f"train --task classification --data {folder}/train.jsonl --out {folder}/run {WORDS}"
    command += f" --validation {folder}/test.jsonl --sequence-length 24 --steps 2 --batch-size 4"
    command += " --precision float32 --columns text=review_text label=stars"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        assert main(command.split()) == 0
    return folder


def test_train_reports_the_metrics_on_the_validation_records(run, capsys):
    capsys.readouterr()
    assert main(["train", "--data", "x", "--out", str(run / "run"), "--resume"]) == 0
    told = capsys.readouterr().out
    assert "accuracy" in told and "macro F1" in told
    assert "on 20 validation records" in told
    assert json.loads((run / "run" / "run.json").read_text())["result"]["metrics"]


def test_evaluate_writes_every_answer(run, capsys):
    capsys.readouterr()
    command = ["evaluate", str(run / "run"), "--task", "classification", "--json"]
    command += ["--data", str(run / "test.jsonl"), "--predictions", str(run / "answers.jsonl")]
    assert main([*command, "--columns", "text=review_text", "label=stars"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_records"] == 20
    names = [metric["name"] for metric in result["metrics"]]
    assert names == ["accuracy", "macro F1", "expected calibration error"]
    lines = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert [set(line) >= {"text", "label", "prediction"} for line in lines] == [True] * 20
    right = sum(line["prediction"]["label"] == line["label"] for line in lines) / 20
    assert result["metrics"][0]["value"] == in_double(right)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "no column 'text'" in error and "--columns text=NAME" in error
    assert main(["evaluate", str(run / "nowhere"), "--data", str(run / "test.jsonl")]) == 1
    assert f"there is no folder {run / 'nowhere'}" in capsys.readouterr().err


def test_predict_answers_a_record_or_files(run, capsys):
    model = str(run / "run")
    capsys.readouterr()
    assert main(["predict", model, "text=a lovely = day"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert set(one["probabilities"]) == {"good", "bad", "odd, even"}
    file = str(run / "test.jsonl")
    assert main(["predict", model, file, "--columns", "text=review_text"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20
    known_otherwise = run / "reviews.csv"  # by another name that training takes, too
    known_otherwise.write_text("Review\na lovely day\n")
    assert main(["predict", model, str(known_otherwise)]) == 0
    assert json.loads(capsys.readouterr().out)["label"]
    assert main(["predict", model, "txt=a"]) == 1
    assert "did you mean 'text'" in capsys.readouterr().err
    assert main(["predict", model]) == 1
    assert "name a record" in capsys.readouterr().err


def test_an_exported_task_is_asked_by_its_signature(run, capsys):
    from tfllm.serving import ModelServer

    base = run / "served" / "stars"
    assert main(["export", str(run / "run"), str(base)]) == 0
    assert (run / "served" / "models.config").exists()
    with ModelServer(run / "served", rest_port=0, grpc_port=None) as server:
        capsys.readouterr()
        command = ["query", "stars", "text=a lovely day", "text=poor", "--address"]
        assert main([*command, server.rest_address, "--signature", "serving_default"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(rows) == 2
        assert rows[0]["labels"] and rows[0]["error"] == ""
        # As docs/tasks.md has it: an only input needs no name, a task no signature.
        texts = ["a lovely day", "poor", "2 = 2"]
        assert main(["query", "stars", *texts, "--address", server.rest_address]) == 0
        again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert again[:2] == rows and len(again) == 3
        for words, message in [
            (["txt=a"], "did you mean 'text'"),
            (["a", "--temperature", "0.5"], "leave temperature out"),
            (["a", "--signature", "clasify"], "did you mean 'classify'"),
        ]:
            assert main(["query", "stars", *words, "--address", server.rest_address]) == 1
            assert message in capsys.readouterr().err


def test_inputs_of_a_query():
    assert rows_of(["a", "text=b", "x = y"], ["text"]) == [
        {"text": "a"},
        {"text": "b"},
        {"text": "x = y"},
    ]
    names = ["context", "question"]
    assert rows_of(["question=a", "context=b=c", "question=d", "context="], names) == [
        {"question": "a", "context": "b=c"},
        {"question": "d", "context": ""},
    ]
    with pytest.raises(ConfigError, match="context=VALUE question=VALUE; received 'a'"):
        rows_of(["a"], names)
    with pytest.raises(ConfigError, match="row 2 has question"):
        rows_of(["question=a", "context=b", "question=d"], names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--task nothing", "unknown task 'nothing'"),
        ("--task classification --lora-rank 4", "trained whole"),
        ("--task classification --columns text", "COLUMN=NAME"),
        ("--task classification --columns txt=a", "did you mean 'text'"),
        ("--task classification --columns text=a steps=3", "'steps=3' is a setting"),
        ("--task classification --ignore-keys text", "received ignore_keys"),
        ("--task classification --model x/y --size bert-tiny", "leave out bert-tiny"),
        (
            "--task classification --num-kv-heads 2 --columns text=review_text label=stars",
            "unknown setting 'num_kv_heads'",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(run, capsys, tmp_path, words, message):
    capsys.readouterr()
    command = f"train --data {run}/train.jsonl --out {tmp_path}/run {words}"
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert message in error, error
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_encoding_is_followed_wherever_records_are_read(run, tmp_path, capsys):
    texts = [f"très bien {i}" for i in range(24)]
    rows = [f"{text};{'good' if i % 2 == 0 else 'bad'}" for i, text in enumerate(texts)]
    path = tmp_path / "notes.csv"
    path.write_bytes(("review_text;stars\n" + "\n".join(rows) + "\n").encode("latin-1"))
    columns = ["--columns", "text=review_text", "label=stars"]
    train = ["train", "--task", "classification", "--data", str(path), *columns, *WORDS.split()]
    train += ["--sequence-length", "24", "--steps", "1", "--batch-size", "4", "--out"]
    train += [str(tmp_path / "run"), "--precision", "float32", "--validation-fraction", "0.3"]
    evaluate = ["evaluate", str(run / "run"), "--data", str(path), *columns]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.csv.txt").write_bytes("Zoë saw Noël.\n".encode("latin-1"))
    mine = ["mine", str(tmp_path / "text"), "--out", str(tmp_path / "graph.json")]
    predict = ["predict", str(run / "run"), str(path), *columns[:2]]
    for command in (train, evaluate, predict, mine):
        assert main(command) == 1
        assert re.search(r"notes\.csv(\.txt)? is not UTF-8", capsys.readouterr().err)
        assert main([*command, "--encoding", "latin1000"]) == 1
        assert "must be one that Python knows" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        assert main([*train, "--encoding", "latin-1"]) == 0
    (held_out,) = (tmp_path / "run").rglob("validation.jsonl")
    kept = [json.loads(line)["text"] for line in held_out.read_text().splitlines()]
    assert kept and set(kept) <= set(texts)
    for command in (evaluate, predict, mine):
        assert main([*command, "--encoding", "latin-1"]) == 0


def test_a_json_array_in_another_encoding_with_a_damaged_record(run, tmp_path, capsys):
    records = [{"text": "très bien", "label": "good"}, {"text": "déjà", "label": None}]
    path = tmp_path / "notes.json"
    path.write_bytes(json.dumps(records, ensure_ascii=False).encode("utf-16"))
    command = ["evaluate", str(run / "run"), "--data", str(path), "--encoding", "utf-16", "--json"]
    assert main(command) == 1
    assert "'label' must be a string or a number; received null" in capsys.readouterr().err
    assert main([*command, "--skip-bad-records"]) == 0
    assert json.loads(capsys.readouterr().out)["num_records"] == 1


def test_what_is_for_records_is_refused_where_there_are_none(tmp_path, capsys):
    harness = ["evaluate", "x", "--data", "y", "--harness", "multiple_choice"]
    assert main([*harness, "--encoding", "latin-1"]) == 1
    assert "--encoding is for the records of a task" in capsys.readouterr().err
    assert main([*harness, "--columns", "text=words"]) == 1
    assert "--columns is for the records of a task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("train --data d --out r", "write --set seed=2"),
        ("prepare d --out r", "write --set seed=2"),
        ("evaluate m --data d", "leave it out"),
    ],
)
def test_columns_are_read_alike_by_every_command(command, advice):
    def columns(*words):
        options = parse([*command.split(), "--columns", *words])
        sections = ["prepare"] if options.command != "evaluate" else []
        return settings(options, *sections).get("prepare", {}).get("columns"), columns_of(options)

    listed, named = columns("text=a=b", "label=stars")
    assert named == {"text": "a=b", "label": "stars"}
    assert listed in (None, ["text=a=b", "label=stars"])
    for word in ("text", "text=", "=a"):
        with pytest.raises(ConfigError, match=f"given as COLUMN=NAME; received '{word}'"):
            columns(word)
    with pytest.raises(ConfigError, match=f"'seed=2' is a setting, not a column; {advice}"):
        columns("text=a", "seed=2")


def test_a_record_is_told_from_files(tmp_path):
    assert record_of(["text=a=b", "other=c"], ["text", "other"]) == {"text": "a=b", "other": "c"}
    assert record_of(["a.csv", "b/c=d.csv"], ["text"]) is None
    with pytest.raises(ConfigError, match="unknown input 'txt'; did you mean 'text'"):
        record_of(["txt=a"], ["text"])
    with pytest.raises(ConfigError, match="'size=8' is neither an input"):
        record_of(["a.csv", "size=8"], ["text"])
