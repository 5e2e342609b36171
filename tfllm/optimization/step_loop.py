"""How `fit` and `evaluate` run a model's steps: compiled, on every replica, several per call."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import keras
import tensorflow as tf

from tfllm import keras_internals
from tfllm.optimization.supported_strategies import refuse_unsupported


class StepLoop:
    """Mixin that makes the functions that `fit` and `evaluate` call with an iterator.

    It precedes `keras.Model` among the bases. The model has `train_step`, `test_step` and
    `detailed_logs`; see `TrainingStep`.
    """

    def make_train_function(self: Any, force: bool = False) -> None:
        """Compile the training step; `fit` calls it with an iterator.

        Raises:
            ValueError: the model, or a part of it, is `untrainable`; or the strategy or the
                optimizer is not supported.
        """
        if self.train_function is None or force:  # only once for all calls of `train_on_batch`
            for layer in keras_internals.layers_of(self, with_itself=True):
                if reason := getattr(layer, "untrainable", ""):
                    raise ValueError(reason)
            refuse_unsupported(self.distribute_strategy)
            self._prepare_optimizer()
            self.train_function = self._loop(self.train_step, training=True)

    def make_test_function(self: Any, force: bool = False) -> None:
        """Compile the evaluation step; `evaluate` calls it with an iterator."""
        if self.test_function is None or force:
            self.test_function = self._loop(self.test_step, training=False)

    def _loop(self: Any, step: Any, *, training: bool) -> Any:
        strategy, steps = self.distribute_strategy, self.steps_per_execution
        detailed = self.detailed_logs and training

        @tf.autograph.experimental.do_not_convert  # it has no Python control flow over tensors
        def once(data: Any, ready: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            def on_replica(data: Any) -> dict[str, tf.Tensor]:
                if ready is not None:  # otherwise the step could delay the reading of the clock
                    with tf.control_dependencies([ready]):
                        data = tf.nest.map_structure(tf.identity, data)
                return step(data)

            logs = strategy.run(on_replica, args=(data,))
            return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

        def run(iterator: Any) -> dict[str, tf.Tensor]:
            data, waited, ready = _timed(lambda: next(iterator))
            logs = once(data, ready)
            if steps > 1:  # a loop without any steps would still be traced
                for _ in tf.range(steps - 1):
                    more, seconds, ready = _timed(iterator.get_next_as_optional)
                    if not more.has_value():  # fewer batches are left
                        break
                    waited += seconds
                    logs = once(more.get_value(), ready)
            return {**logs, "input_seconds": waited} if detailed else logs

        def on_data(data: Any) -> dict[str, tf.Tensor]:
            return once(data)

        if not self.run_eagerly:
            run = tf.function(run, reduce_retracing=True)
            on_data = tf.function(on_data, reduce_retracing=True)

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            if not inspect.isgenerator(iterator):
                return run(iterator)
            # From train_on_batch and test_on_batch: a graph must not contain the batch itself.
            data = tf.nest.map_structure(
                lambda t: None if t is None else tf.convert_to_tensor(t), next(iterator)
            )
            return on_data(data)

        return function

    def _prepare_optimizer(self: Any) -> None:
        self._renew_optimizer()
        inner: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if inner.gradient_accumulation_steps:
            raise ValueError(
                "the optimizer's gradient_accumulation_steps fails on several replicas, and "
                "advances the schedule at each micro-batch; set model.gradient_accumulation "
                "instead, before fit; received gradient_accumulation_steps="
                f"{inner.gradient_accumulation_steps}"
            )
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        # The gradients are already those of the global batch; a second sum would scale them up.
        keras_internals.take_summed_gradients(inner)

    def _renew_optimizer(self: Any) -> None:
        """Replace the optimizer if it was built for other weights than those trained now.

        This is so if an adapter has been added, switched or deleted after `fit`.

        Raises:
            ValueError: the optimizer cannot be recreated from its configuration.
        """
        old: Any = self.optimizer
        inner = getattr(old, "inner_optimizer", old)
        built_for = keras_internals.variables_of(inner) if inner.built else []
        known = {id(variable) for variable in built_for}
        if not inner.built or all(id(variable) in known for variable in self.trainable_variables):
            return
        why = (
            f"the optimizer ({type(inner).__name__}) was built for other weights than those that "
            "are trained now, as after a change of adapters"
        )
        try:
            with self.distribute_strategy.scope():
                self.optimizer = type(old).from_config(old.get_config())
        except Exception as error:
            raise ValueError(
                f"{why}, and it cannot be recreated from its configuration ({error}); compile() "
                "the model again with a new optimizer"
            ) from error
        warnings.warn(
            f"{why}: training continues with a new one of the same settings, from its step 0",
            stacklevel=2,
        )

    def _maybe_symbolic_build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        """Build the model and the metrics.

        Keras' own method consumes a batch, and fails with several workers.
        """
        metrics: Any = keras_internals.metrics_of_user(self)
        if metrics is not None and (metrics.built or self._distribute_strategy is None):
            metrics = None  # without a strategy they create their variables when first updated
        if self.built and metrics is None:
            return
        data = data_batch if iterator is None else keras_internals.replica_specs(iterator)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(
            tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), data)
        )
        with self.distribute_strategy.scope():
            outputs = self(x)
            if metrics is not None:
                metrics.build(y, outputs)

    def _resolve_auto_jit_compile(self) -> bool:
        """False: XLA, which is slower on a CPU, needs `compile(jit_compile=True)`."""
        return False


@tf.autograph.experimental.do_not_convert
def _timed(get: Any) -> tuple[Any, tf.Tensor, tf.Tensor]:
    """The result of `get`, the seconds it took, and the time afterwards (float64 scalars)."""
    before = tf.timestamp()
    with tf.control_dependencies([before]):
        given = get()
    with tf.control_dependencies(tf.nest.flatten(given, expand_composites=True)):
        ready = tf.timestamp()
    return given, ready - before, ready
