"""What a run writes, and what it refuses."""

import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests.rounding import (
    UNIT_ROUNDOFF,
    about,
    additions_of,
    additions_of_sum,
    assert_within,
    in_double,
)
from tests.training.conftest import LOSSES, SETTINGS
from tfllm.config import ConfigError, ModelConfig, TrainingConfig
from tfllm.pretrained import load
from tfllm.tasks import evaluate
from tfllm.tasks.language_model.language_modeling import LanguageModeling
from tfllm.training import train
from tfllm.training.run_settings import steps_of

RATE_OPERATIONS = 10
"""one after the other, in float32, from a step's number to its learning rate"""


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def validations(lines):
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


def test_the_last_checkpoints_and_the_best_are_kept(whole_run):
    names = sorted(p.name for p in (whole_run.folder / "checkpoints").iterdir())
    # Written were 4 (then the best), 5, 8 (the best), 10 and 12.
    assert names == ["step-00000008", "step-00000010", "step-00000012"]


def test_the_model_folder_has_the_best_weights(whole_run, data):
    best = load_file(whole_run.folder / "checkpoints/step-00000008/state.safetensors")
    last = load_file(whole_run.folder / "checkpoints/step-00000012/state.safetensors")
    loaded = load(whole_run.model_folder)
    name = next(k for k in best if k.startswith("model/") and k.endswith("embeddings"))
    value = loaded.model.token_embedding.embeddings.numpy()
    np.testing.assert_array_equal(value, best[name])
    assert np.abs(value - last[name]).max() > 1e-4
    ids = tf.constant([[1, 2, 3, 4]])
    np.testing.assert_array_equal(loaded.model(ids), whole_run.model(ids))
    assert loaded.tokenizer.encode("the cat") == data.tokenizer.encode("the cat")
    assert whole_run.validation_loss == 1.0
    assert whole_run.validation_perplexity == in_double(math.e)


def test_the_log_holds_each_validation_and_the_last_step(whole_run):
    lines = metrics(whole_run.folder)
    assert validations(lines) == LOSSES
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["step"] == 1
    assert "tokens_per_second" not in steps[0]  # it is the graph's tracing that takes the time
    last = steps[-1]
    assert (last["step"], last["tokens"]) == (12, 12 * 4 * 16)
    assert last["perplexity"] == in_double(math.exp(last["loss"]))
    assert last["loss"] < steps[0]["loss"]
    # Cosine to a tenth of 1e-2 over 12 steps, of which the first 10 warm up; the 12th is number 11.
    assert last["learning_rate"] == about(1e-3 + 9e-3 * 0.5, RATE_OPERATIONS)
    assert steps[0]["learning_rate"] == about(1e-3, RATE_OPERATIONS)
    assert last["flops_utilization"] > 0


def test_tensorboard_gets_the_same_values(whole_run):
    (file,) = (whole_run.folder / "tensorboard").iterdir()
    found = []
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        found += [(event.step, v.tag, tf.make_ndarray(v.tensor)) for v in event.summary.value]
    expected = [
        (line["step"], name, value)
        for line in metrics(whole_run.folder)
        for name, value in line.items()
        if name not in ("step", "tokens")
    ]
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    values = np.array([e[2] for e in expected])
    assert_within([f[2] for f in found], values, UNIT_ROUNDOFF["float32"] * np.abs(values))


def test_run_json_says_how_the_run_was_made(whole_run, model_config):
    values = json.loads((whole_run.folder / "run.json").read_text())
    assert values["training"]["learning_rate"] == 1e-2
    assert values["model"]["feed_forward_dim"] == 32
    assert values["result"]["validation_loss"] == 1.0
    assert values["result"]["steps"] == 12


def test_steps_per_execution_that_does_not_divide_ends_at_the_last_step(
    start, whole_run, data, tmp_path
):
    run = start(
        tmp_path / "run",
        given_losses=False,
        steps_per_execution=5,
        schedule="wsd",
        validation_batches=0,
    )
    assert run.step == int(run.model.optimizer.iterations) == 12
    lines = metrics(run.folder)
    validated = {
        line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line
    }
    assert list(validated) == [5, 10, 12]  # the first chance after each fourth step
    assert [line["tokens"] for line in lines if "loss" in line][-1] == 12 * 64
    # Warm-up is 10 of the 12 steps, and the last fifth (2.4 steps) decays: 1 step is left of it.
    rate = about(1e-2 * (0.1 + 0.9 / 2.4), RATE_OPERATIONS)
    assert [line["learning_rate"] for line in lines if "loss" in line][-1] == rate
    # The validation of the run is the evaluation of its model.
    result = evaluate(run.model, data, sequence_length=16, batch_size=4)
    additions = additions_of(run.model.config, 16) + data.vocab_size
    additions = additions_of_sum(result.num_tokens, additions)
    assert result.loss == about(min(validated.values()), additions)


@pytest.mark.parametrize(
    ("rows", "settings", "steps"),
    [
        (10, {"epochs": 1, "batch_size": 4}, 3),
        (10, {"epochs": 2, "batch_size": 4}, 5),  # the rows of the passes stand in one line
        (100, {"epochs": 1.1, "batch_size": 10}, 11),
        (10, {"epochs": 0.01, "batch_size": 4}, 1),
    ],
)
def test_epochs_are_passes_over_the_rows(data, rows, settings, steps, monkeypatch):
    monkeypatch.setattr(data.train, "num_rows", lambda length: rows)
    assert steps_of(TrainingConfig(**settings), data) == steps


@pytest.mark.filterwarnings("ignore:sequence_length=1,000,000 is longer")
def test_refused_before_anything_is_written_or_measured(data, model_config, tmp_path):
    run = tmp_path / "run"
    settings = {"verbose": False, "precision": "float32"}
    with pytest.raises(ValueError, match=r"shorter than one row: it has .* tokens.*at most"):
        train(data, run, model_config, sequence_length=10**6, **settings)
    with pytest.raises(ConfigError, match=r"does not fit the model.*vocab_size is 20"):
        train(data, run, ModelConfig(20, 16, 1, 2), **settings)
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        train(data, run, model_config, learningrate=1, **settings)
    with pytest.raises(ConfigError, match="did you mean 'llama-4m'"):
        train(data, run, "lama-4m", **settings)
    assert not run.exists()


def test_a_batch_smaller_than_the_replicas_is_refused(data, model_config, tmp_path, monkeypatch):
    class EightReplicas:
        num_replicas_in_sync = 8

    monkeypatch.setattr(tf.distribute, "get_strategy", EightReplicas)
    rule = r"divisible by their number \(8 replicas x 2 micro-batches = 16\); received 4; 16 would"
    with pytest.raises(ConfigError, match=rule):
        train(data, tmp_path / "run", model_config, **SETTINGS)


def test_without_validation_text_the_last_weights_are_kept(start, data, tmp_path, monkeypatch):
    monkeypatch.setattr(data.validation, "num_tokens", 0)
    with pytest.warns(UserWarning, match="no validation text"):
        run = start(tmp_path / "run", given_losses=False, steps=1, gradient_accumulation=1)
    assert run.validation_loss is None and run.validation_perplexity is None
    assert (run.model_folder / "model.safetensors").exists()


def test_a_full_disk_keeps_the_last_good_checkpoint(start, whole_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(whole_run.folder, run)
    shutil.rmtree(run / "checkpoints/step-00000012")

    def full(path, state):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfllm.training.checkpoints.checkpoint_files._write_state", full)
    with pytest.raises(
        OSError, match=r"step 12 .*No space left.*is that of step 10; free some space"
    ):
        start(run, resume=True)
    names = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert names == ["step-00000008", "step-00000010"]
    load_file(run / "checkpoints/step-00000010/state.safetensors")
    assert (run / "model/model.safetensors").exists()  # of before


@pytest.mark.filterwarnings("ignore:sequence_length=1,000,000 is longer")
def test_the_run_folder_is_free_again_after_an_error(data, model_config, tmp_path):
    with pytest.raises(ValueError, match="shorter than one row"):
        train(data, tmp_path, model_config, sequence_length=10**6)
    assert not (tmp_path / ".lock").exists()


def test_a_model_is_a_size_with_other_fields_or_refused_by_field(data):
    asked = TrainingConfig(sequence_length=16)
    config = LanguageModeling().architecture(
        {"size": "llama-1m", "num_layers": 1, "embedding_dim": 16.0}, data, asked
    )
    assert (config.num_layers, config.embedding_dim) == (1, 16)
    assert config.vocab_size == data.vocab_size
    assert LanguageModeling().architecture(
        {"num_layers": 1}, data, asked
    ) == LanguageModeling().architecture({"size": "llama-4m", "num_layers": 1}, data, asked)
    assert LanguageModeling().architecture(  # the old name
        {"preset": "llama-1m", "num_layers": 1}, data, asked
    ) == LanguageModeling().architecture({"size": "llama-1m", "num_layers": 1}, data, asked)
    for wrong, rule in (
        ({"num_layers": 2.5}, r"num_layers must be a whole number; received 2\.5"),
        ({"layers": 2}, "unknown setting 'layers' in size llama-4m; did you mean 'num_layers'"),
        ({"size": "llama-1m", "preset": "llama-4m"}, "preset is the old name of size"),
        (3, "must be a size's name, a mapping .* or an instance of ModelConfig; received int"),
    ):
        with pytest.raises(ConfigError, match=rule):
            LanguageModeling().architecture(wrong, data, asked)
