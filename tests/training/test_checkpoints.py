"""Checkpoints: complete or absent, and no more of them than configured."""

import hashlib
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from tfllm.training.checkpoints.checkpoints import CheckpointError, Checkpoints, Progress


def state(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "model/kernel": draw.normal(size=(5, 3)).astype(np.float32),
        "model/half": draw.normal(size=7).astype(ml_dtypes.bfloat16),
        "model/none": np.zeros((0, 4), np.float32),
        "optimizer/iterations": np.asarray(draw.integers(1 << 40)),
    }


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape
        assert value.tobytes() == other[name].tobytes(), name


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_comes_back(checkpoints):
    saved = Progress(step=7, tokens=70, best_step=5, best_validation_loss=1.5)
    checkpoints.save(state(), saved)
    found, progress = checkpoints.read(7)
    assert progress == saved
    assert_same(found, state())


def test_the_last_and_the_best_are_kept(checkpoints):
    for step in (10, 20, 30, 40, 50):
        checkpoints.save(state(), Progress(step=step, best_step=min(step, 20)))
    assert checkpoints.steps() == [20, 40, 50]


def test_other_names_in_the_folder_are_left_alone(checkpoints):
    (checkpoints.folder / "step-00000001.bak").mkdir(parents=True)
    (checkpoints.folder / "step-notes").mkdir()
    for step in (1, 2, 3):
        checkpoints.save(state(), Progress(step=step))
    assert checkpoints.steps() == [2, 3]
    assert (checkpoints.folder / "step-00000001.bak").is_dir()


def test_the_files_are_plain_safetensors_and_json(checkpoints):
    folder = checkpoints.save(state(), Progress(step=7, best_step=7))
    assert_same(load_file(folder / "state.safetensors"), state())
    said = json.loads((folder / "progress.json").read_text(), parse_constant=pytest.fail)
    content = (folder / "state.safetensors").read_bytes()
    assert said["step"] == said["best_step"] == 7 and said["best_validation_loss"] is None
    assert said["state"] == {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_arrays_larger_than_a_block_and_not_contiguous_are_written_whole(checkpoints, monkeypatch):
    monkeypatch.setattr("tfllm.training.checkpoints.checkpoint_files._BLOCK", 1000)
    large = {"a": np.arange(12_345.0).reshape(15, 823).T, "b": np.arange(7)}
    checkpoints.save(large, Progress(step=1))
    assert_same(checkpoints.read(1)[0], large)


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json"])
def test_a_checkpoint_cut_short_is_named(checkpoints, file):
    path = checkpoints.save(state(), Progress(step=3)) / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=f"step-00000003/{file} is damaged or cut short"):
        checkpoints.read(3)


@pytest.mark.parametrize("file", ["state.safetensors", "progress.json"])
def test_any_bit_that_flips_is_noticed(checkpoints, file):
    path = checkpoints.save(state(), Progress(step=3, tokens=9)) / file
    content = bytearray(path.read_bytes())
    for place in range(len(content)):
        bit = 1 << place % 8
        content[place] ^= bit
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"step-00000003/{file} is damaged"):
            checkpoints.read(3)
        content[place] ^= bit
    path.write_bytes(content)
    checkpoints.read(3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "progress.json").unlink(),
        lambda folder: [file.unlink() for file in folder.iterdir()],
        lambda folder: shutil.rmtree(folder) or folder.write_text("not a folder"),
        lambda folder: (folder / "progress.json").write_text('{"step": 3}'),
        lambda folder: (folder / "progress.json").write_text("[]"),
        lambda folder: shutil.copy(
            folder.with_name("step-00000002") / "state.safetensors", folder / "state.safetensors"
        ),
    ],
    ids=["no state", "no progress", "empty", "file", "no checksum", "list", "other state"],
)
def test_a_damaged_checkpoint_is_named_and_can_be_set_aside(checkpoints, damage):
    checkpoints.save(state(2), Progress(step=2))
    damage(checkpoints.save(state(3), Progress(step=3)))
    assert checkpoints.steps() == [2, 3]
    with pytest.raises(CheckpointError, match=r"step-00000003/.* is damaged or cut short"):
        checkpoints.read(3)
    assert checkpoints.set_aside(3).name == "damaged-step-00000003"
    assert checkpoints.steps() == [2]
    assert_same(checkpoints.read(2)[0], state(2))


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(checkpoints, monkeypatch):
    # Or a fault of the network would have good checkpoints set aside.
    checkpoints.save(state(), Progress(step=3))

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(PermissionError):
        checkpoints.read(3)


def test_a_progress_of_another_version_is_not_guessed_at(checkpoints, monkeypatch):
    monkeypatch.setattr(
        "tfllm.training.checkpoints.checkpoints.asdict", lambda progress: {"stride": 3}
    )
    checkpoints.save(state(), Progress(step=3))
    with pytest.raises(CheckpointError, match=r"another version of tfllm \(.*stride"):
        checkpoints.progress(3)


def test_an_update_changes_what_is_said_of_the_run(checkpoints):
    checkpoints.save(state(), Progress(step=1))
    checkpoints.update(Progress(step=1, best_step=1, best_validation_loss=0.5))
    assert checkpoints.progress(1) == Progress(step=1, best_step=1, best_validation_loss=0.5)
    assert_same(checkpoints.read(1)[0], state())


def test_a_checkpoint_of_the_same_step_is_replaced(checkpoints):
    checkpoints.save(state(1), Progress(step=1))
    checkpoints.save(state(2), Progress(step=1))
    assert_same(checkpoints.read(1)[0], state(2))
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000001"]


def leave(checkpoints, kind: str, seed: int) -> Path:
    """What a killed process leaves of step 5."""
    other = Checkpoints(checkpoints.folder / "elsewhere", keep=1)
    left = other.save(state(seed), Progress(step=5))
    left = left.rename(checkpoints.folder / f".{kind}-step-00000005")
    other.folder.rmdir()
    return left


@pytest.mark.parametrize("kind", ["writing", "replaced"])
def test_the_only_whole_copy_is_put_back(checkpoints, kind):
    leave(checkpoints, kind, seed=5)
    assert checkpoints.steps() == []
    checkpoints.recover()
    assert_same(checkpoints.read(5)[0], state(5))
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("kind", ["writing", "replaced", "deleting"])
def test_a_copy_that_is_not_whole_or_not_needed_is_removed(checkpoints, kind):
    checkpoints.save(state(1), Progress(step=1))
    (leave(checkpoints, kind, seed=5) / "progress.json").unlink()
    checkpoints.recover()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000001"]
    checkpoints.save(state(6), Progress(step=5))
    leave(checkpoints, kind, seed=5)
    checkpoints.recover()
    assert_same(checkpoints.read(5)[0], state(6))
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        "step-00000001",
        "step-00000005",
    ]


def test_a_whole_copy_takes_the_place_of_a_damaged_one(checkpoints):
    (checkpoints.save(state(6), Progress(step=5)) / "state.safetensors").write_bytes(b"")
    leave(checkpoints, "replaced", seed=5)
    checkpoints.recover()
    assert_same(checkpoints.read(5)[0], state(5))
    assert (checkpoints.folder / "damaged-step-00000005").is_dir()


def test_without_a_folder_there_is_nothing_to_recover(checkpoints):
    checkpoints.recover()
    assert not checkpoints.folder.exists()
