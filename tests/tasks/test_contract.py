"""One contract that every task in `TASKS` passes: train, resume, save, export, serve, refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.tiny_cases import CASES, TinyCase
from tfllm.config import PrepareConfig
from tfllm.serving import Client, ModelServer, check, export
from tfllm.tasks import evaluate, load, task_named
from tfllm.tasks.encoder.encoder_task import EncoderTask
from tfllm.training import train

SETTINGS: dict[str, Any] = {
    "sequence_length": 24,
    "batch_size": 4,
    "steps": 2,
    "learning_rate": 1e-2,
    "precision": "float32",
    "validate_every": 1,
    "checkpoint_every": 1,
}


@pytest.fixture(scope="module", autouse=True)
def given_peak():
    """The machine's speed is not measured in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfllm.training.worker_run.matmul_peak", lambda dtype: 1e9)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("contract")


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def run_of(name: str, data: Path, run: Path, **options: Any) -> Any:
    case = CASES[name]
    return train(
        data,
        run,
        case.model,
        task=name,
        prepare=PrepareConfig(vocab_size=case.vocab_size, validation_fraction=0.2),
        verbose=False,
        **{**SETTINGS, **case.settings, **options},
    )


class Trained:
    """A run of a task, and the folder of its exported model."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.case: TinyCase = CASES[name]
        self.data = write(folder / f"{name}.jsonl", self.case.records())
        self.run = run_of(name, self.data, folder / name)
        self.served = load(self.run.folder)
        self.base = folder / "served" / name
        self.version = export(self.served, self.base)


@pytest.fixture(scope="module")
def trained(folder):
    """Task name to what was trained, each made once."""
    found: dict[str, Trained] = {}

    def of(name: str) -> Trained:
        if name not in found:
            found[name] = Trained(name, folder)
        return found[name]

    return of


@pytest.fixture(scope="module")
def server(trained, folder):
    for name in CASES:
        trained(name)
    with ModelServer(folder / "served", rest_port=0, grpc_port=0) as running:
        yield running


every_task = pytest.mark.parametrize("name", list(CASES))


@every_task
def test_a_definition_says_what_it_is(name):
    definition = task_named(name)
    assert definition.name == name
    assert definition.input_columns
    assert type(definition).__doc__


@every_task
def test_a_run_ends_with_a_model_of_its_task_and_metrics(name, trained):
    made = trained(name)
    assert made.run.step == 2
    assert np.isfinite(made.run.validation_loss)
    assert made.run.task_metrics
    for metric in made.run.task_metrics:
        assert metric.low <= metric.high or np.isnan(metric.value)
    ours = json.loads((made.run.model_folder / "tfllm.json").read_text())
    assert ours["task"]["name"] == name
    assert ours["task"]["information"]["sequence_length"] == 24
    assert json.loads((made.run.folder / "run.json").read_text())["task"] == {"name": name}


@every_task
def test_a_stopped_run_goes_on_to_the_same_weights(name, trained, folder, monkeypatch):
    from tfllm.training.callbacks import RunCallback

    made = trained(name)
    # The same examples: a new vocabulary may break ties in another way.
    shutil.copytree(made.run.folder / "data", folder / f"{name}-again" / "data")
    begin = RunCallback.on_train_batch_begin

    def stop(self: RunCallback, batch: int, logs: Any = None) -> None:
        if self.progress.step == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        begin(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(RunCallback, "on_train_batch_begin", stop)
        stopped = run_of(name, made.data, folder / f"{name}-again")
    assert (stopped.interrupted_by, stopped.step) == ("SIGTERM", 1)
    monkeypatch.setattr(type(task_named(name)), "max_evaluated_records", 0)  # takes a while
    run = train(made.data, folder / f"{name}-again", resume=True, verbose=False)
    assert run.step == 2
    for here, there in zip(
        run.model.trainable_weights, made.run.model.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(here.numpy(), there.numpy(), rtol=1e-5, atol=1e-7)


@every_task
def test_other_settings_or_data_do_not_continue_a_run(name, trained, folder):
    made = trained(name)
    with pytest.raises(ValueError, match="learning_rate"):
        run_of(name, made.data, made.run.folder, learning_rate=0.5)
    other = write(folder / f"{name}-other.jsonl", made.case.records()[:-1])
    with pytest.raises(ValueError, match="prepared from other files"):
        run_of(name, other, made.run.folder)


@every_task
def test_the_saved_model_is_the_trained_one(name, trained):
    made = trained(name)
    loaded = task_named(name).load(made.run.folder)
    pairs = list(zip(loaded.model.trainable_weights, made.run.model.trainable_weights, strict=True))
    assert pairs
    for here, there in pairs:
        np.testing.assert_array_equal(here.numpy(), there.numpy(), err_msg=here.path)
    assert loaded.tokenizer.encode("a lovely day") == made.served.tokenizer.encode("a lovely day")


@every_task
def test_a_row_is_answered_alike_alone_and_in_a_batch(name, trained):
    made = trained(name)
    inputs = [*made.case.inputs, *made.case.bad_inputs]
    together = made.served.predict(inputs)
    same(together, [made.served.predict([record])[0] for record in inputs])
    errors = [bool(answer.get("error")) for answer in together]
    assert errors == [False] * len(made.case.inputs) + [True] * len(made.case.bad_inputs)


@pytest.mark.parametrize(
    "name", [name for name in CASES if isinstance(task_named(name), EncoderTask)]
)
def test_what_is_served_never_exceeds_the_models_context(name, trained):
    made = trained(name)
    information = {**made.served.information, "sequence_length": 10_000}
    served = type(made.served)(made.served.model, made.served.tokenizer, information)
    context = made.run.model.config.max_sequence_length
    assert served.sequence_length == context
    (answer,) = served.predict([{name: "the day " * context for name in served.input_names}])
    assert not answer["error"] or "no mask" in answer["error"]


@every_task
def test_answers_fit_json(name, trained):
    made = trained(name)
    answers = made.served.predict(made.case.inputs)
    assert json.loads(json.dumps(answers, allow_nan=False)) == answers
    assert made.served.predict([]) == []
    with pytest.raises(ValueError, match="record 1 must have the text"):
        made.served.predict([{"nothing": "x"}])


@every_task
def test_the_exported_model_is_fit_for_serving(name, trained):
    report = check(trained(name).version)
    assert report.ok, report.format()
    assert not [f for f in report.findings if f.severity in ("error", "warning")], report.format()


@every_task
@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_server_answers_as_the_task_does(name, protocol, trained, server):
    made = trained(name)
    inputs = [*made.case.inputs, *made.case.bad_inputs]
    columns = {n: [r.get(n, "") for r in inputs] for n in made.served.input_names}
    function = made.served.signatures["serving_default"]
    wanted = function(**{n: tf.constant(values) for n, values in columns.items()})
    address = server.rest_address if protocol == "rest" else server.grpc_address
    with Client(address, model=name, protocol=protocol) as client:
        given = client.predict({n: np.array(v, object) for n, v in columns.items()})
    assert set(given) == set(wanted)
    for output, value in wanted.items():
        array = value.numpy()
        if array.dtype == object:
            texts = [item.decode() for item in array.ravel()]
            assert given[output].ravel().tolist() == texts, output
        else:
            np.testing.assert_allclose(given[output], array, rtol=1e-4, atol=1e-5, err_msg=output)


@every_task
def test_no_output_has_a_width_that_depends_on_the_rows(name, trained):
    """TensorFlow Serving joins the parts of a split request by the first part's shape."""
    loaded = tf.saved_model.load(str(trained(name).version))
    for function in loaded.signatures.values():
        for output, spec in function.structured_outputs.items():
            assert spec.shape.rank >= 1 and None not in spec.shape.as_list()[1:], output


def test_a_client_gives_spans_as_objects(trained, server):
    made = trained("tagging")
    texts = [record["text"] for record in made.case.inputs]
    with Client(server.rest_address, model="tagging") as client:
        rows = client.rows("serving_default", [{"text": text} for text in texts])
    found = [{"spans": row["spans"], "error": row["error"]} for row in rows]
    same(found, made.served.predict(made.case.inputs))
    assert all(isinstance(row["spans"], list) for row in rows)


@every_task
def test_evaluation_keeps_every_answer(name, trained, tmp_path):
    made = trained(name)
    found = evaluate(made.served, made.data, task=name, out=tmp_path / "answers.jsonl")
    records = made.case.records()
    assert found.num_records == len(records)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == len(records)
    assert all("prediction" in line and line["where"] for line in lines)
    json.dumps(found.to_dict(), allow_nan=False)
    assert [m.name for m in found.metrics] == [m.name for m in made.run.task_metrics]


@every_task
def test_bad_records_are_named_with_their_place(name, trained, tmp_path):
    made = trained(name)
    for number, (record, message) in enumerate(made.case.bad_records):
        records = [*made.case.records(), record]
        data = write(tmp_path / f"{number}.jsonl", records)
        with pytest.raises(ValueError, match=f"(?s){message}"):
            run_of(name, data, tmp_path / f"run-{number}")
        assert not (tmp_path / f"run-{number}" / "run.json").exists()


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Answers that are alike but for rounding."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for key, value in a.items():
            close(value, b[key])


def close(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key, value in a.items():
            close(value, b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            close(x, y)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    else:
        assert a == b
