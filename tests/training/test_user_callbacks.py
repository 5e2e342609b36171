"""User callbacks of a run, its history, patience, and runs that are extended."""

import json
import math
import shutil

import keras
import numpy as np
import pytest

from tests.rounding import in_double
from tests.training.conftest import SETTINGS
from tests.training.last_checkpoint import last_state
from tfllm.config import ConfigError, PrepareConfig
from tfllm.tasks import prepare
from tfllm.tasks.language_model.language_modeling import LanguageModeling
from tfllm.training import train
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_settings import resumed
from tfllm.training.user_callbacks import history_of, waited


class Recorder(keras.callbacks.Callback):
    """Writes down how it is called."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.num_epochs = 0

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(f"batch {batch}")

    def on_train_batch_end(self, batch, logs=None):
        assert logs["loss"] > 0

    def on_epoch_end(self, epoch, logs=None):
        self.num_epochs += 1
        self.calls.append((epoch, logs["val_loss"], round(logs["val_perplexity"], 3)))

    def on_train_end(self, logs=None):
        self.calls.append("end")


def batches(begin, end):
    return [f"batch {n}" for n in range(begin, end)]


EPOCHS = [
    *("epoch 0", *batches(0, 4), (0, 3.0, 20.086)),
    *("epoch 1", *batches(4, 8), (1, 1.0, 2.718)),
    *("epoch 2", *batches(8, 12), (2, 2.0, 7.389)),
]


def test_callbacks_are_called_in_epochs_that_end_with_a_validation(start, whole_run, tmp_path):
    recorder, heard = Recorder(), []
    saved = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.keras"), monitor="val_loss", save_best_only=True
    )
    others = [
        saved,
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: heard.append(epoch)),
    ]
    run = start(tmp_path / "run", callbacks=[recorder, *others])
    assert recorder.calls == ["begin", *EPOCHS, "end"]
    assert heard == [0, 1, 2]
    best = keras.models.load_model(tmp_path / "best.keras")
    for mine, theirs in zip(best.weights, whole_run.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    for mine, theirs in zip(run.model.weights, whole_run.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())  # they change nothing
    assert run.history["step"] == [4, 8, 12]
    assert run.history["val_loss"] == [3.0, 1.0, 2.0]
    assert run.history["val_perplexity"] == in_double([math.e**3, math.e, math.e**2])
    assert run.history == whole_run.history and not run.stopped_early
    losses = run.history["loss"]
    assert losses[0] > losses[1] > losses[2] > 0


def test_callbacks_and_history_go_on_where_the_run_goes_on(start, whole_run, tmp_path):
    first, second = Recorder(), Recorder()
    start(tmp_path / "run", stop_at=6, callbacks=[first])
    run = start(tmp_path / "run", resume=True, callbacks=[second])
    assert first.calls == ["begin", *EPOCHS[:6], "epoch 1", *batches(4, 6), "end"]
    assert second.calls[:3] == ["begin", "epoch 1", "batch 6"]
    assert second.calls[-8:] == [EPOCHS[11], *EPOCHS[12:], "end"]
    assert second.num_epochs == 3  # one of them in the process before
    assert run.history == whole_run.history
    again = start(tmp_path / "run", resume=True, callbacks=[Recorder()])
    assert again.history == whole_run.history


def test_a_callback_ends_a_run_which_then_is_finished(start, tmp_path):
    class Enough(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 7

    run = start(tmp_path / "run", callbacks=[Enough()])
    assert (run.step, run.stopped_early, run.interrupted_by) == (8, True, None)
    assert run.history["val_loss"] == [3.0, 1.0]
    result = json.loads((run.folder / "run.json").read_text())["result"]
    assert result["steps"] == 8 and result["stopped_early"]
    again = start(tmp_path / "run")  # the same command does nothing more
    assert (again.step, again.stopped_early) == (8, True)


@pytest.mark.parametrize("interrupted", [False, True])
def test_early_stopping_waits_across_processes(start, whole_run, tmp_path, interrupted):
    def early():
        return keras.callbacks.EarlyStopping(monitor="val_loss", patience=1)

    options = {"steps": 16, "schedule": "constant"}
    if interrupted:
        start(tmp_path / "run", stop_at=10, callbacks=[early()], **options)
    run = start(tmp_path / "run", callbacks=[early()], **options)
    assert (run.step, run.stopped_early) == (12, True)
    assert run.validation_loss == 1.0


def test_patience_ends_a_run_with_the_weights_of_the_best_validation(start, tmp_path):
    options = {"steps": 16, "schedule": "constant", "patience": 1, "warmup_steps": 2}
    run = start(tmp_path / "run", **options)
    assert (run.step, run.stopped_early, run.validation_loss) == (12, True, 1.0)
    shorter = start(tmp_path / "shorter", **{**options, "steps": 8})
    for mine, theirs in zip(run.model.weights, shorter.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert waited([]) == 0 and waited([{"val_loss": 1.0}, {"val_loss": 1.0}]) == 1
    assert history_of([{"step": 4.0, "a": 1.0}, {"step": 8.0}])["a"][0] == 1.0


def test_what_a_run_cannot_call_is_refused(data, model_config, tmp_path):
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)
    plateau = keras.callbacks.ReduceLROnPlateau()
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    for wrong in ([scheduler], [plateau], [backup], ["early"], [keras.callbacks.History]):
        with pytest.raises(
            ConfigError, match=r"is not supported in a run|must be keras\.callbacks"
        ):
            train(data, tmp_path / "run", model_config, callbacks=wrong, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_patience_needs_validation_text(model_config, tmp_path):
    (tmp_path / "text.txt").write_text("some text " * 300)
    config = PrepareConfig(vocab_size=300, num_processes=1, validation_fraction=0.0)
    data = prepare(tmp_path / "text.txt", tmp_path / "out", config, show_progress=False)
    with pytest.raises(ConfigError, match="patience counts validations"):
        train(data, tmp_path / "run", model_config, verbose=False, **SETTINGS, patience=2)


@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_a_run_that_is_made_longer_ends_as_if_it_had_been_begun_so(start, tmp_path, schedule):
    options = {"schedule": schedule, "given_losses": False, "warmup_steps": 2}
    long = start(tmp_path / "long", steps=11, **options)
    # Constant: finished, at a step that no validation is due at. wsd: before the decay begins.
    first = start(tmp_path / "run", steps=7, stop_at=0 if schedule == "constant" else 5, **options)
    assert first.step == (7 if schedule == "constant" else 5)
    run = start(tmp_path / "run", steps=11, **options)
    assert run.step == 11 and run.interrupted_by is None
    assert last_state(run.folder)[0] == "step-00000011"
    for mine, theirs in zip(last_state(run.folder)[1:], last_state(long.folder)[1:], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if name != "history":
                np.testing.assert_array_equal(mine[name], value, err_msg=name)
    assert run.history["step"] == long.history["step"] == [4, 8, 11]
    # Means of the steps' losses, which are added up from where the run went on.
    assert run.history["loss"] == in_double(long.history["loss"], additions=11, enlarged=10)
    for mine, theirs in zip(run.model.weights, long.model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    values = json.loads((run.folder / "run.json").read_text())
    assert values["training"]["steps"] == 11 and values["result"]["steps"] == 11


def test_a_run_is_not_made_longer_where_its_rates_would_have_been_others(
    data, model_config, whole_run, tmp_path
):
    folder = RunFolder(whole_run.folder)
    before = folder.path.joinpath("run.json").read_bytes()
    rule = (
        r"contains a run of 12 steps, 12 of which are done; a run of 16 steps would have had "
        r"another learning rate from step \d+ on, since a cosine schedule .*model=.*steps=4"
    )
    for resume in (True, False):
        with pytest.raises(ConfigError, match=rule):
            options = {**SETTINGS, "steps": 16} if not resume else {"steps": 16}
            train(data, folder.path, None if resume else model_config, resume=resume, **options)
    assert folder.path.joinpath("run.json").read_bytes() == before
    # A warm-up that depends on the number of steps is said.
    shutil.copytree(whole_run.folder, tmp_path / "run")
    values = json.loads(before)
    values["training"]["schedule"] = "constant"
    folder = RunFolder(tmp_path / "run")
    folder.write(values)
    with pytest.raises(ConfigError, match="also give warmup_steps=10"):
        resumed(LanguageModeling(), folder, data, None, None, {"steps": 600}, all_of_them=False)
    given = {"steps": 600, "warmup_steps": 10}
    longer = resumed(LanguageModeling(), folder, data, None, None, given, all_of_them=False)
    assert (longer.training.steps, longer.training.warmup_steps, longer.steps_before) == (
        *(600, 10),
        12,
    )
    with pytest.raises(ConfigError, match="whose steps is 12; received 8"):
        resumed(LanguageModeling(), folder, data, None, None, {"steps": 8}, all_of_them=False)
