"""What the callback does at each step, tested with a model that computes nothing."""

import json
import math

import keras
import pytest

from tfllm.optimization.training_step import TrainingStep
from tfllm.training import LossIsNaN
from tfllm.training.callbacks import RunCallback
from tfllm.training.checkpoints.background_checkpoints import BackgroundCheckpoints
from tfllm.training.checkpoints.checkpoints import Progress
from tfllm.training.checkpoints.model_state import state_of
from tfllm.training.interruption import Interruption
from tfllm.training.run_folder import RunFolder
from tfllm.training.run_writer import RunWriter
from tfllm.training.throughput import Throughput


class Entered(RunCallback):
    """With its logs and checkpoints open while it is entered."""

    def __enter__(self):
        self.writer.__enter__()
        return self

    def __exit__(self, *error):
        self.writer.__exit__(*error)
        self.checkpoints.close()


@pytest.fixture
def make(tmp_path):
    def make(progress=None, **options) -> Entered:
        folder = RunFolder(tmp_path)
        progress = progress or Progress()
        given = {
            "total_steps": 10,
            "steps_per_execution": 1,
            "validate": lambda: {"loss": 2.0},
            "validate_every": 4,
            "checkpoint_every": 3,
            "interruption": Interruption(),
        }
        callback = Entered(
            BackgroundCheckpoints(folder.checkpoints, 2),
            progress,
            Throughput(8, replicas=1, flops_per_token=100.0, peak=1e6),
            RunWriter(folder, progress, total_steps=10, verbose=False),
            **{**given, **options},
        )
        model = TrainingStep.of(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
        schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.5)
        model.compile(keras.optimizers.AdamW(schedule))
        model.optimizer.build(model.trainable_variables)
        callback.set_model(model)
        return callback

    return make


def step(callback: RunCallback, loss: float) -> None:
    callback.on_train_batch_begin(0)
    callback.model.optimizer.iterations.assign_add(1)
    callback.on_train_batch_end(0, {"loss": loss})


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(make):
    callback = make()
    with callback:
        for _ in range(4):
            step(callback, 1.0)
        with pytest.raises(LossIsNaN, match=r"loss is nan at step 5.*checkpoint is that of step 4"):
            step(callback, math.nan)
    assert callback.checkpoints.steps() == [3, 4]


def test_a_validation_loss_that_is_no_number_stops_the_run(make):
    with make(validate=lambda: {"loss": math.inf}) as callback:
        for _ in range(3):
            step(callback, 1.0)
        with pytest.raises(LossIsNaN, match="validation loss is inf at step 4"):
            step(callback, 1.0)
    assert callback.checkpoints.steps() == [3]


def test_weights_that_are_not_finite_are_never_saved(make):
    # The loss of a step is that of the weights before its update.
    with make(validate=None) as callback:
        for _ in range(5):
            step(callback, 1.0)
        callback.model.weights[1].assign([math.nan])
        with pytest.raises(LossIsNaN, match=r"weights are not finite at step 6.*that of step 3"):
            step(callback, 1.0)
    assert callback.checkpoints.steps() == [3]


def test_batches_are_counted_where_float16_skips_an_update(make):
    with make(validate=None, steps_per_execution=4) as callback:
        seen = []
        for _ in range(3):  # no update at all
            callback.on_train_batch_begin(0)
            callback.on_train_batch_end(0, {"loss": 1.0})
            seen.append(callback.progress.step)
    assert seen == [4, 8, 10]
    assert callback.progress.tokens == 80


def test_the_second_word_on_a_signal_is_a_checkpoint(make):
    interruption = Interruption()
    with make(interruption=interruption) as callback:
        step(callback, 1.0)
        interruption.signal = "SIGINT"
        step(callback, 1.0)
    assert callback.interrupted and callback.model.stop_training
    assert callback.checkpoints.steps() == [2]


def test_a_validation_that_was_left_out_is_made_up_for(make):
    with make().checkpoints as checkpoints:  # written when the block ends
        checkpoints.save(state_of(make().model), Progress(step=4, validation_due=True))
    callback = make(Progress(step=4, validation_due=True))
    with callback:
        callback.validate_now()
    saved = callback.checkpoints.progress(4)
    assert (saved.best_step, saved.best_validation_loss, saved.validation_due) == (4, 2.0, False)


def test_logs_that_cannot_be_written_say_what_to_do(make):
    class FullDisk:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    with (
        pytest.raises(OSError, match=r"logs in .* No space left .*Free some space"),
        make() as callback,
    ):
        callback.writer._metrics.close()
        callback.writer._metrics = FullDisk()
        step(callback, 1.0)


def test_a_huge_loss_is_still_json(make):
    with make(validate=None, total_steps=1) as callback:
        step(callback, 1e5)
    line = json.loads(callback.writer.folder.metrics.read_text())
    assert line["loss"] == 1e5 and math.isfinite(line["perplexity"])


def test_a_clock_that_jumps_changes_no_rate(make, monkeypatch):
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(jumps)))
    with make(validate=None) as callback:
        for _ in range(5):
            step(callback, 1.0)
    assert callback.throughput.tokens_per_second > 0
    assert 0 < callback.throughput.seconds["compute"] < 60
    lines = [json.loads(line) for line in callback.writer.folder.metrics.read_text().splitlines()]
    assert all(0 <= line["seconds"] < 60 for line in lines)


def test_a_run_whose_updates_float16_leaves_out_for_ever_is_given_up(make):
    with make(validate=None, total_steps=100, checkpoint_every=1000) as callback:
        inner = callback.model.optimizer
        callback.model.optimizer = keras.optimizers.LossScaleOptimizer(inner)
        callback.model.optimizer.build(callback.model.trainable_variables)
        with pytest.raises(LossIsNaN, match="50 consecutive batches overflow float16"):
            for _ in range(60):
                callback.on_train_batch_begin(0)
                callback.on_train_batch_end(0, {"loss": 1.0})
    assert callback.progress.step in (49, 50)
