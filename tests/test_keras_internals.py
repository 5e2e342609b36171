"""Keras' internals that tfllm uses exist and behave as assumed, with a test for each.

`make test-keras` runs them with the oldest and the newest Keras that is supported.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm import keras_internals as internals


def dense_model() -> keras.Model:
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.5, seed=7)(keras.layers.Dense(4, name="inner")(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="outer")(x))


class Owner(keras.layers.Layer):
    """A layer that is built and has one part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = keras.layers.Dense(2)

    def build(self, shape) -> None:
        self.part.build(shape)

    def call(self, x):
        return self.part(x)


@pytest.fixture
def owner() -> Owner:
    layer = Owner()
    layer(np.zeros((1, 3), np.float32))
    return layer


def test_a_built_layer_takes_parts_while_it_is_unlocked_and_not_after(owner):
    with internals.unlocked(owner):
        owner.other = keras.layers.Dense(2)
    owner.other.build((None, 3))
    assert len(owner.weights) == 4
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        owner.third = keras.layers.Dense(2)


def test_a_part_that_is_forgotten_has_no_weights_in_its_owner(owner):
    part = owner.part
    with internals.unlocked(owner):
        owner.part = None
    internals.forget_layer(owner, part)
    assert owner.weights == [] and internals.layers_of(owner) == []


def test_a_variable_that_is_forgotten_is_no_weight():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    internals.forget_variable(layer, layer.bias)
    assert [v.name for v in layer.weights] == ["kernel"]


def test_layers_are_found_at_any_depth_with_their_own_weights(owner):
    model = keras.Sequential([owner])
    assert internals.layers_of(model) == [owner, owner.part]
    assert internals.layers_of(model, with_itself=True)[0] is model
    assert internals.own_weights(owner) == []
    assert [v.name for v in internals.own_weights(owner.part)] == ["kernel", "bias"]


def test_random_generators_give_their_seed_and_their_state():
    ((seed, state),) = internals.seed_generators(dense_model())
    assert seed == 7 and tuple(state.shape) == (2,)


def test_a_model_becomes_of_another_class_and_stays_the_same_object():
    class Step(keras.Model):
        def train_step(self, data):
            called.append(self)
            return {"loss": tf.constant(3.0)}

    called = []
    model = dense_model()
    kind, weights = type(model), model.get_weights()
    internals.of_class(model, Step)
    assert (
        isinstance(model, Step) and isinstance(model, kind) and type(model).__name__ == "Functional"
    )
    model.compile("sgd")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert called == [model]
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_functional_class_leaves_the_classes_that_it_comes_from_alone():
    class Base(keras.Model):
        pass

    class Own(Base):
        pass

    inputs = keras.Input((3,))
    internals.make_functional(Own)
    model = Own(inputs=inputs, outputs=keras.layers.Dense(2)(inputs))
    assert isinstance(model, internals.Functional) and not issubclass(Base, internals.Functional)
    assert model(np.ones((1, 3))).shape == (1, 2)


def test_variables_without_values_do_not_wait_for_a_later_call():
    with internals.no_variables_waiting(), keras.StatelessScope(initialize_variables=False):
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
    dense_model()
    assert layer.kernel._value is None


def test_slices_are_updated_by_another_function_for_a_while():
    calls = []

    def update(inputs, start_indices, updates):
        calls.append(tuple(start_indices))
        return inputs

    with internals.slices_updated_by(update):
        keras.ops.slice_update(np.zeros((2, 2)), (0, 1), np.ones((1, 1)))
    result = keras.ops.slice_update(np.zeros((2, 2)), (0, 1), np.ones((1, 1)))
    assert calls == [(0, 1)] and np.asarray(result)[0, 1] == 1


def test_what_was_given_to_compile_is_found():
    model = dense_model()
    assert internals.loss_of_user(model) is None
    model.compile("sgd")
    assert internals.loss_of_user(model) is None and internals.metrics_of_user(model) is None
    model.compile("sgd", loss="mse", metrics=["mae"])
    assert internals.loss_of_user(model) == "mse"
    metrics = internals.metrics_of_user(model)
    metrics.update_state(np.ones((2, 2)), np.zeros((2, 2)))
    assert [float(value) for value in metrics.result().values()] == [1.0]


def test_losses_are_counted_by_their_weights():
    model = dense_model()
    model.compile("sgd", loss="mse")
    internals.count_loss(model, tf.constant(1.0), tf.constant(3.0))
    internals.count_loss(model, tf.constant(5.0), tf.constant(1.0))
    assert float(model.get_metrics_result()["loss"]) == 2.0


def test_losses_of_layers_are_forgotten():
    model = keras.Sequential([keras.layers.ActivityRegularization(l1=1.0)])
    model(np.ones((1, 3)))
    assert len(model.losses) == 1
    internals.forget_losses(model)
    assert model.losses == []


def test_a_mask_is_found_on_the_output_of_its_layer():
    output = keras.layers.Masking()(tf.constant([[[0.0], [1.0]]]))
    assert internals.mask_of(output).numpy().tolist() == [[False, True]]
    assert internals.mask_of(tf.zeros([2])) is None


def test_an_optimizer_does_not_add_up_gradients_of_replicas_that_are_the_sum():
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([devices[0].name])
    added = []
    with strategy.scope():
        variable = keras.Variable([1.0])
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build([variable])
        internals.take_summed_gradients(optimizer)
        assert internals.variables_of(optimizer) == [variable]
    optimizer._all_reduce_sum_gradients, takes = (
        lambda gradients: added.append(len(gradients)) or takes(gradients),
        optimizer._all_reduce_sum_gradients,
    )
    strategy.run(lambda: optimizer.apply_gradients([(tf.constant([0.25]), variable)]))
    assert added == [1]  # Keras asks the attribute that is replaced
    assert float(variable[0]) == 0.75


def test_fit_gives_the_specs_of_one_replica_and_calls_what_the_step_overrides():
    found, called = [], []

    class Model(keras.Model):
        def _symbolic_build(self, iterator=None, data_batch=None):
            raise AssertionError("fit builds by _maybe_symbolic_build")

        def _maybe_symbolic_build(self, iterator=None, data_batch=None):
            found.append(internals.replica_specs(iterator))

        def _resolve_auto_jit_compile(self):
            called.append("auto_jit_compile")
            return False

        def make_train_function(self, force=False):
            called.append("make_train_function")
            self.train_function = lambda iterator: {"loss": next(iterator)[0].shape[0]}

    model = Model()
    model.compile("sgd", loss="mse")
    model.fit(np.ones((8, 3), np.float32), np.ones((8, 1), np.float32), batch_size=4, verbose=0)
    (specs,) = found
    assert [spec.shape[-1] for spec in tf.nest.flatten(specs)] == [3, 1]
    assert "make_train_function" in called and "auto_jit_compile" in called
    for name in ("make_test_function", "_maybe_symbolic_build", "_resolve_auto_jit_compile"):
        assert callable(getattr(keras.Model, name)), name
