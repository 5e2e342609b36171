"""All uses of Keras internals, which may change in any release.

Each is here only, with the reason for it, and has its own test in tests/test_keras_internals.py,
which shows what a new release has changed. `make test-keras` runs them with Keras 3.12.0 and
3.15.1, the oldest and the newest supported versions.

In addition, `TrainingStep` overrides `make_train_function`, `make_test_function`,
`_maybe_symbolic_build` and `_resolve_auto_jit_compile`, which `fit` and `evaluate` call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import core
from keras.src.models.functional import Functional

__all__ = ["Functional"]

_WAITING = "uninitialized_variables"


# ---------------------------------------------------------------------------- layers and models


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Allow adding sublayers to a layer that is already built, which Keras refuses."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def forget_layer(layer: keras.layers.Layer, part: keras.layers.Layer) -> None:
    """Remove a layer that is no longer an attribute from its owner's list of sublayers."""
    with unlocked(layer):
        layer._tracker.untrack(part)


def forget_variable(layer: keras.layers.Layer, variable: keras.Variable) -> None:
    """Remove a variable from a layer's weights, without the garbage collection of `del`."""
    layer._untrack_variable(variable)


def layers_of(layer: keras.layers.Layer, *, with_itself: bool = False) -> list[Any]:
    """All layers inside a layer, at any depth."""
    return list(layer._flatten_layers(include_self=with_itself))


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """A layer's weights, without those of its sublayers and the states of random generators."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_generators(model: keras.Model) -> list[tuple[Any, keras.Variable]]:
    """The seed and the state of each random generator in a model's layers, in a fixed order."""
    generators = [g for layer in layers_of(model, with_itself=True) for g in layer._seed_generators]
    return [(generator._initial_seed, generator.state) for generator in generators]


def of_class(model: keras.Model, step: type) -> None:
    """Make a model of another library's class behave as `step`, a subclass of `keras.Model`.

    The object stays the same for everyone who has a reference to it; with a wrapper around it,
    `summary`, `save` and the layers' names would be those of another model.
    """
    kind = type(model)
    # Named like the model's own class, with which saved files are opened.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = type(kind.__name__, (step, kind), names)


def make_functional(cls: type) -> None:
    """Add the functional base class to a class that is constructed with inputs and outputs.

    Otherwise Keras would add it to the first of the class's bases that is not Keras's own, and so
    to every model that inherits from that base.
    """
    if not issubclass(cls, Functional):
        cls.__bases__ = (*cls.__bases__, Functional)


@contextlib.contextmanager
def no_variables_waiting() -> Iterator[None]:
    """Leave variables that are created inside the block uninitialized.

    Keras has a list of such variables, and would initialize them at the next symbolic call of any
    model.
    """
    waiting = global_state.get_global_attribute(_WAITING, [])
    global_state.set_global_attribute(_WAITING, [])
    try:
        yield
    finally:
        global_state.set_global_attribute(_WAITING, waiting)


@contextlib.contextmanager
def slices_updated_by(update: Callable[..., tf.Tensor]) -> Iterator[None]:
    """Make `keras.ops.slice_update`, which is an XLA op on TensorFlow, call `update`."""
    original = core.slice_update
    core.slice_update = update
    try:
        yield
    finally:
        core.slice_update = original


# ---------------------------------------------------------------------------- training


def loss_of_user(model: keras.Model) -> Any:
    """The argument of `compile(loss=...)`; None if there was none, or before `compile`."""
    given = getattr(model, "_compile_loss", None)
    return given and given._user_loss


def metrics_of_user(model: keras.Model) -> Any:
    """The metrics given to `compile`, as a single object; None if there were none."""
    return model._compile_metrics


def count_loss(model: keras.Model, loss: tf.Tensor, weight: tf.Tensor) -> None:
    """Add a step's mean loss to the mean of the epoch."""
    model._loss_tracker.update_state(loss, sample_weight=weight)


def forget_losses(model: keras.Model) -> None:
    """Discard the losses that layers added in an earlier graph."""
    model._clear_losses()


def mask_of(tensor: Any) -> tf.Tensor | None:
    """The mask that a layer attached to its output, or None."""
    return getattr(tensor, "_keras_mask", None)


def take_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Stop an optimizer from summing gradients over replicas: they are already summed."""
    optimizer._all_reduce_sum_gradients = list


def variables_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that an optimizer was built for."""
    return optimizer._trainable_variables


def replica_specs(iterator: Any) -> Any:
    """The tensor specs of one replica's share of the elements of `fit`'s distributed iterator."""
    data = iterator._distributed_dataset.element_spec
    # A PerReplicaSpec has one spec for each replica.
    return tf.nest.map_structure(lambda spec: getattr(spec, "_value_specs", [spec])[0], data)
