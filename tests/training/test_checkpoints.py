"""Checkpoints: whole or not there, and no more of them than asked for."""

import keras
import numpy as np
import pytest

from tfllm.training.checkpoints import CheckpointError, Checkpoints, Progress


@pytest.fixture(scope="module")
def make_model():
    def make(units: int = 3) -> keras.Model:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, name="dense")])
        model.compile(keras.optimizers.AdamW(1e-3))
        model.optimizer.build(model.trainable_variables)
        return model

    return make


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_comes_back(checkpoints, make_model):
    model, other = make_model(), make_model()
    model.optimizer.iterations.assign(7)
    model.optimizer.variables[-1].assign(np.full(3, 0.25))
    saved = Progress(step=7, tokens=70, best_step=5, best_validation_loss=1.5)
    checkpoints.save(model, saved)
    assert checkpoints.restore(other, 7) == saved
    mine = [*model.variables, *model.optimizer.variables]
    for a, b in zip(mine, [*other.variables, *other.optimizer.variables], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_weights_alone_can_be_restored(checkpoints, make_model):
    model, other = make_model(), make_model()
    model.optimizer.iterations.assign(7)
    checkpoints.save(model, Progress(step=7))
    checkpoints.restore(other, 7, optimizer=False)
    np.testing.assert_array_equal(model.weights[0].numpy(), other.weights[0].numpy())
    assert int(other.optimizer.iterations) == 0


def test_the_last_and_the_best_are_kept(checkpoints, make_model):
    model = make_model()
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(model, Progress(step=step, best_step=min(step, 20)))
    assert checkpoints.steps() == [20, 40, 50]


def test_other_names_in_the_folder_are_left_alone(checkpoints, make_model):
    model = make_model()
    (checkpoints.folder / "step-00000001.bak").mkdir(parents=True)
    (checkpoints.folder / "step-notes").mkdir()
    for step in (1, 2, 3):
        checkpoints.save(model, Progress(step=step))
    assert checkpoints.steps() == [2, 3]
    assert (checkpoints.folder / "step-00000001.bak").is_dir()


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json"])
def test_a_checkpoint_cut_short_is_named_and_changes_nothing(checkpoints, make_model, file):
    model = make_model()
    path = checkpoints.save(model, Progress(step=3)) / file
    path.write_bytes(path.read_bytes()[:-20])
    before = [v.numpy().copy() for v in model.weights]
    with pytest.raises(CheckpointError, match=f"step-00000003/{file} is damaged or cut short"):
        checkpoints.restore(model, 3)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_checkpoint_of_another_model_is_refused(checkpoints, make_model):
    checkpoints.save(make_model(3), Progress(step=1))
    with pytest.raises(CheckpointError, match=r"has the shape \(2, 3\), the model's \(2, 4\)"):
        checkpoints.restore(make_model(4), 1)


def test_a_full_disk_leaves_the_earlier_ones(checkpoints, make_model, monkeypatch):
    model = make_model()
    checkpoints.save(model, Progress(step=1))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfllm.training.checkpoints.os.fsync", full)
    with pytest.raises(OSError, match=r"step 2 could not .* No space left .* that of step 1; make"):
        checkpoints.save(model, Progress(step=2))
    with pytest.raises(OSError, match=r"step 1 could not .* No space left"):
        checkpoints.update(Progress(step=1, tokens=9))
    monkeypatch.undo()
    assert checkpoints.steps() == [1]
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000001"]
    assert checkpoints.restore(model, 1).tokens == 0


def test_an_update_changes_what_is_said_of_the_run(checkpoints, make_model):
    checkpoints.save(make_model(), Progress(step=1))
    checkpoints.update(Progress(step=1, best_step=1))
    assert checkpoints.progress(1).best_step == 1
