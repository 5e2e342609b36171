"""A run that was stopped continues as if it had not been."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.training.conftest import SETTINGS
from tests.training.last_checkpoint import last_state, progress
from tfllm.config import ConfigError, PrepareConfig
from tfllm.tasks import prepare
from tfllm.tasks.language_model.language_modeling import LanguageModeling
from tfllm.training import CheckpointError, train
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import resumed


def assert_same_end(folder, whole_run):
    name, state, said = last_state(folder)
    whole_name, whole, whole_said = last_state(whole_run.folder)
    assert name == whole_name == "step-00000012"
    assert state.keys() == whole.keys()
    for key, value in whole.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    assert said == whole_said


def validations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]


def test_a_run_stopped_twice_ends_bit_for_bit_like_one_in_one_go(start, whole_run, tmp_path):
    # Step 3 is in the midst of an epoch; at step 8 a validation is due, the best one.
    first = start(tmp_path / "run", stop_at=3)
    assert (first.step, first.interrupted_by, first.model_folder) == (3, "SIGTERM", None)
    second = start(tmp_path / "run", resume=True, stop_at=8)
    assert (second.step, second.interrupted_by) == (8, "SIGTERM")
    assert validations(tmp_path / "run") == [(4, 3.0)]  # it did not wait for a validation
    assert progress(tmp_path / "run/checkpoints/step-00000008")["validation_due"]
    third = start(tmp_path / "run", resume=True)
    assert (third.step, third.interrupted_by) == (12, None)
    assert_same_end(tmp_path / "run", whole_run)
    assert validations(tmp_path / "run") == validations(whole_run.folder)
    for mine, theirs in zip(third.model.weights, whole_run.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_the_checkpoint_before_a_damaged_one_is_used(start, whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run.folder, run)
    damaged = run / "checkpoints/step-00000012/state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with open(run / "metrics.jsonl", "a") as log:
        log.write('{"step": 11, "lo')  # the process was killed
    with pytest.warns(UserWarning, match=r"step-00000012.*damaged or cut short.*from step 10"):
        again = start(run, resume=True)
    assert again.step == 12
    assert_same_end(run, whole_run)
    assert validations(run) == validations(whole_run.folder)
    assert (run / "checkpoints/damaged-step-00000012").is_dir()


def test_without_a_checkpoint_that_can_be_read_there_is_an_error(whole_run, data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run.folder, run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "progress.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*progress.json"):
        train(data, run, resume=True, verbose=False)


def test_a_finished_run_can_be_resumed_to_no_effect(start, whole_run, tmp_path):
    shutil.copytree(whole_run.folder, tmp_path / "run")
    again = start(tmp_path / "run", resume=True)
    assert again.step == 12
    assert again.tokens_per_second == whole_run.tokens_per_second
    assert_same_end(tmp_path / "run", whole_run)


def test_a_resumed_run_keeps_its_settings_data_and_model(data, model_config, whole_run, tmp_path):
    with pytest.raises(ConfigError, match=r"whose learning_rate is 0.01; received 0.5"):
        train(data, whole_run.folder, resume=True, learning_rate=0.5)
    wider = dataclasses.replace(model_config, feed_forward_dim=48)
    with pytest.raises(ConfigError, match=r"model's feed_forward_dim is 32; received 48"):
        train(data, whole_run.folder, wider, resume=True)
    (tmp_path / "other.txt").write_text("some other text " * 300)
    config = PrepareConfig(vocab_size=300, num_processes=1)
    other = prepare(tmp_path / "other.txt", tmp_path / "out", config, show_progress=False)
    with pytest.raises(ConfigError, match="trained on other data"):
        train(other, whole_run.folder, resume=True)


def test_the_same_settings_may_be_said_again(data, model_config, whole_run):
    settings = {"learning_rate": "1e-2", "precision": "auto"}
    folder = RunFolder(whole_run.folder)
    model, config, *_ = resumed(
        LanguageModeling(), folder, data, model_config, None, settings, all_of_them=False
    )
    assert (model, config.precision, config.steps) == (model_config, "float32", 12)


def test_the_command_that_began_a_run_goes_on_with_it(start, whole_run, model_config, tmp_path):
    same = {"model": model_config, **SETTINGS}
    first = start(tmp_path / "run", stop_at=7, **same)
    assert first.interrupted_by == "SIGTERM"
    second = start(tmp_path / "run", **same)
    assert (second.step, second.interrupted_by) == (12, None)
    assert_same_end(tmp_path / "run", whole_run)
    again = start(tmp_path / "run", **same)  # it is finished: nothing happens
    assert again.step == 12
    assert_same_end(tmp_path / "run", whole_run)


def test_other_settings_do_not_touch_the_run_that_is_there(data, model_config, whole_run):
    before = {p: p.stat().st_mtime_ns for p in whole_run.folder.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="a run of 13 steps would have had"):
        train(data, whole_run.folder, model_config, **{**SETTINGS, "steps": 13})
    # What is not said is asked for, too: the defaults.
    with pytest.raises(ConfigError, match=r"whose sequence_length is 16; received 512"):
        train(data, whole_run.folder, model_config)
    wider = dataclasses.replace(model_config, feed_forward_dim=48)
    with pytest.raises(ConfigError, match=r"model's feed_forward_dim is 32; received 48"):
        train(data, whole_run.folder, wider, **SETTINGS)
    after = {p: p.stat().st_mtime_ns for p in whole_run.folder.rglob("*") if p.is_file()}
    assert {p.name for p in before.keys() ^ after.keys()} <= {".lock"}
    changed = [p.name for p in before.keys() & after.keys() if before[p] != after[p]]
    assert set(changed) <= {".lock"}
