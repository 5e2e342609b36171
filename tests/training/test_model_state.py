"""A model's state on the host: complete, a copy, the same for any number of replicas."""

import keras
import numpy as np
import pytest

from tfllm.training import AdamW
from tfllm.training.checkpoints.checkpoints import CheckpointError
from tfllm.training.checkpoints.model_state import restore_state, state_of


def make_model(units: int = 3, optimizer=None, name: str | None = None) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(units, name="dense")], name=name
    )
    model.compile(optimizer or keras.optimizers.AdamW(1e-3))
    model.optimizer.build(model.trainable_variables)
    return model


def values(model):
    variables = [*model.weights, *model.optimizer.variables]
    return [np.array(v.numpy()) for v in variables]


def scramble(model, seed=0):
    draw = np.random.default_rng(seed)
    for variable in (*model.weights, *model.optimizer.variables):
        variable.assign(draw.uniform(1, 9, variable.shape).astype(variable.dtype))


OPTIMIZERS = {
    "keras": lambda: keras.optimizers.AdamW(1e-3),
    "ours": lambda: AdamW(1e-3),
    "momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "float16": lambda: keras.optimizers.LossScaleOptimizer(AdamW(1e-3)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_was_taken_comes_back_in_a_model_of_another_name(optimizer):
    model, other = (make_model(optimizer=OPTIMIZERS[optimizer](), name=n) for n in "ab")
    scramble(model)
    restore_state(other, state_of(model), where="there")
    for mine, theirs in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_weights_alone_can_be_restored():
    model, other = make_model(), make_model()
    scramble(model)
    restore_state(other, state_of(model), where="there", optimizer=False)
    np.testing.assert_array_equal(model.weights[0].numpy(), other.weights[0].numpy())
    assert int(other.optimizer.iterations) == 0
    restore_state(other, state_of(model, optimizer=False), where="there", optimizer=False)


def test_the_state_is_a_copy_that_training_does_not_change():
    model = make_model()
    state = state_of(model)
    before = {name: value.copy() for name, value in state.items()}
    scramble(model)
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)
        assert state[name].flags.owndata or state[name].base is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"model/dense/kernel": np.zeros((2, 4), np.float32)}),
            r"RUN/step-1: model/dense/kernel must be float32 \[2, 3\].*received float32 \[2, 4\]",
        ),
        (
            lambda s: s.update({"model/dense/kernel": np.zeros((2, 3), np.float64)}),
            r"must be float32 \[2, 3\] as in the model; received float64 \[2, 3\]",
        ),
        (
            lambda s: s.pop("model/dense/bias"),
            r"lacks 1 variables that .* has, such as 'model/dense/bias'; give",
        ),
        (lambda s: s.update(extra=np.zeros(1)), r"has 1 variables that .* lacks, such as 'extra'"),
    ],
)
@pytest.mark.parametrize("optimizer", ["keras", "ours"])
def test_a_state_of_another_model_is_refused_and_changes_nothing(change, message, optimizer):
    model = make_model(optimizer=OPTIMIZERS[optimizer]())
    state = state_of(model)
    change(state)
    scramble(model)
    before = values(model)
    with pytest.raises(CheckpointError, match=message):
        restore_state(model, state, where="RUN/step-1")
    for mine, theirs in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_state_of_another_optimizer_is_refused():
    model, other = make_model(), make_model(optimizer=keras.optimizers.SGD(1e-2))
    with pytest.raises(CheckpointError, match=r"lacks \d+ variables"):
        restore_state(model, state_of(other), where="there")
    with pytest.raises(CheckpointError, match=r"has \d+ variables that .* lacks"):
        restore_state(other, state_of(model), where="there")
