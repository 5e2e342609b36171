"""What the callback does at each step, on a model that computes nothing."""

import json
import math

import keras
import pytest

from tfllm.training import LossIsNaN
from tfllm.training.callbacks import RunCallback
from tfllm.training.checkpoints import Checkpoints, Progress
from tfllm.training.interruption import Interruption
from tfllm.training.run_folder import RunFolder


@pytest.fixture
def make(tmp_path):
    def make(progress=None, **options) -> RunCallback:
        folder = RunFolder(tmp_path)
        given = {
            "total_steps": 10,
            "steps_per_execution": 1,
            "tokens_per_step": 8,
            "flops_per_token": 100.0,
            "peak": 1e6,
            "validate": lambda: 2.0,
            "validate_every": 4,
            "checkpoint_every": 3,
            "interruption": Interruption(),
            "verbose": False,
        }
        callback = RunCallback(
            folder,
            Checkpoints(folder.checkpoints, 2),
            progress or Progress(),
            **{**given, **options},
        )
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
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
    with make(validate=lambda: math.inf) as callback:
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
    make().checkpoints.save(make().model, Progress(step=4, validation_due=True))
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
        pytest.raises(OSError, match=r"logs in .* No space left .*; make room"),
        make() as callback,
    ):
        callback._metrics.close()
        callback._metrics = FullDisk()
        step(callback, 1.0)


def test_a_huge_loss_is_still_json(make):
    with make(validate=None, total_steps=1) as callback:
        step(callback, 1e5)
    line = json.loads(callback.folder.metrics.read_text())
    assert line["loss"] == 1e5 and math.isfinite(line["perplexity"])
