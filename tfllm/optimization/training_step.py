"""A training step for `keras.Model.fit` that is right for language models, on any strategy.

Keras' own step takes means of means (wrong where batches or replicas have different numbers of
tokens), hands optimizers sparse gradients whose repeated rows they do not sum, clips on each
replica before the gradients are added up, and cannot accumulate under a strategy. Here: sums of
losses and gradients, made dense, over micro-batches; one all-reduce; division by the tokens of
all; then the optimizer, with its clipping.
"""

from __future__ import annotations

import inspect
import zlib
from typing import Any

import keras
import tensorflow as tf
from keras.src.models.functional import Functional

_SUM = tf.distribute.ReduceOp.SUM


@keras.saving.register_keras_serializable("tfllm")
class Perplexity(keras.metrics.Mean):
    """exp of the mean loss a token."""

    def __init__(self, name: str = "perplexity", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def result(self) -> tf.Tensor:
        """The perplexity so far, a float32 scalar."""
        return tf.exp(super().result())


class TrainingStep(keras.Model):
    """A `keras.Model` whose `fit` and `evaluate` weigh every token of the global batch alike.

    Data are `(x, y)` or `(x, y, weights)`: inputs, labels int `[B, T]` and weights float `[B, T]`.
    Without `compile(loss=...)` the loss is the cross-entropy of the model's logits; a loss that is
    given must be one that `keras.losses` describes, and is averaged over tokens, too. The logs have
    `loss`, for our own cross-entropy `perplexity` (without the regularizers' share of the loss),
    and what `compile(metrics=..., weighted_metrics=...)` asks for, which costs all logits at once.

    `TrainingStep(inputs=..., outputs=...)` is a functional model.

    Set before `fit`:
        gradient_accumulation: micro-batches that a batch is cut into.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance; of the functional sort where inputs and outputs are given."""
        if cls is TrainingStep and _is_functional(args, kwargs):
            cls = FunctionalTrainingStep
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        if _is_functional(args, kwargs) and not issubclass(cls, Functional):
            # Keras would make *this* class functional, and with it every model that inherits it.
            cls.__bases__ = (*cls.__bases__, Functional)
        super().__init__(*args, **kwargs)
        self.gradient_accumulation = 1
        self.perplexity = Perplexity()

    train_function: Any
    test_function: Any

    # ---- what a model may define

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sum over tokens of weight · loss, and the sum of weights, both float32 scalars.

        `logits` are given where they have been computed already, for metrics.
        """
        if logits is None:
            logits = self(x, training=training)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))
        return tf.reduce_sum(losses * weights), tf.reduce_sum(weights)

    # ---- one step

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Update the weights once, from this replica's share of the batch."""
        context = tf.distribute.get_replica_context()
        x, y, weights = self._unpacked(data)
        variables = self.trainable_variables
        self._seed_dropout(context)
        # Only keeps float16 gradients in range; it is taken out again below.
        size = tf.cast(tf.maximum(tf.size(y), 1), tf.float32)

        def one(x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                objective_sum, *sums = self._sums(x, y, weights, training=True)
                objective = self.optimizer.scale_loss(objective_sum / size)
            gradients = tape.gradient(
                objective, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
            return [*dense, objective_sum, *sums]

        if self.jit_compile:
            one = tf.function(one, jit_compile=True)
        local = self._accumulated(one, x, y, weights)
        total = local
        if context.num_replicas_in_sync > 1:  # whose sizes differ in an epoch's last batch
            total = context.all_reduce(_SUM, [*(g * size for g in local[:-3]), *local[-3:]])
            size = 1.0
        mean = tf.math.divide_no_nan(size, total[-1])
        gradients = [g * mean for g in total[:-3]]
        self.optimizer.apply(gradients, variables)
        return self._logged(local[-3:], total[-3:])

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss of this replica's share of the batch."""
        x, y, weights = self._unpacked(data)
        local = list(self._sums(x, y, weights, training=False))
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(_SUM, local) if context.num_replicas_in_sync > 1 else local
        return self._logged(local, total)

    def _sums(self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool) -> tuple:
        """Sums over tokens of what is minimised and of the loss alone, and the sum of weights."""
        self._clear_losses()  # of an earlier graph
        given, metrics = self._given_loss, self._compile_metrics
        outputs = None
        if given is not None or metrics is not None:
            outputs = self(x, training=training)
        if metrics is not None:
            metrics.update_state(y, outputs, weights)
        if given is None:
            known = {} if outputs is None else {"logits": outputs}
            loss_sum, weight_sum = self.loss_sums(
                x, y, _spread(weights, y), training=training, **known
            )
        else:
            losses = given(y, outputs)
            weights = _spread(weights, losses)
            for masked in (outputs, losses):  # as Keras does
                mask = getattr(masked, "_keras_mask", None)
                if mask is not None:
                    weights *= tf.cast(_spread(mask, losses), tf.float32)
            loss_sum = tf.reduce_sum(tf.cast(losses, tf.float32) * weights)
            weight_sum = tf.reduce_sum(weights)
        # Regularizers and the like are means already. Weighted by the tokens, the shares of all
        # micro-batches and replicas add up to each of them once.
        objective_sum = loss_sum
        for extra in self.losses:
            objective_sum += tf.reduce_sum(tf.cast(extra, tf.float32)) * weight_sum
        return objective_sum, loss_sum, weight_sum

    @property
    def _given_loss(self) -> Any:
        """The function from compile(loss=...), element by element; None for our own."""
        given = getattr(self, "_compile_loss", None)
        given = given and given._user_loss
        if given is None:
            return None
        if isinstance(given, list | tuple | dict):
            raise ValueError(
                "one loss for one output, please, instead of a list or a dictionary of them; "
                f"received loss={given!r}"
            )
        given = keras.losses.get(given)
        return given.call if isinstance(given, keras.losses.Loss) else given

    def _accumulated(self, one: Any, x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        """`one` on each micro-batch, its results added up."""
        count = self.gradient_accumulation
        if count == 1:
            return one(x, y, weights)
        data, rows = (x, y, weights), y.shape[0]
        if rows is not None and rows % count == 0:
            cut = tf.nest.map_structure(
                lambda t: tf.reshape(t, tf.concat([[count, rows // count], tf.shape(t)[1:]], 0)),
                data,
            )

            def micro_batch(i: tf.Tensor) -> Any:
                return tf.nest.map_structure(
                    lambda c, t: tf.ensure_shape(c[i], [rows // count, *t.shape[1:]]), cut, data
                )
        else:  # parts whose sizes differ by one row at most, such as those of an epoch's last batch
            rows = tf.shape(y)[0]
            count = tf.minimum(count, tf.maximum(rows, 1))

            def micro_batch(i: tf.Tensor) -> Any:
                return tf.nest.map_structure(
                    lambda t: t[i * rows // count : (i + 1) * rows // count], data
                )

        zeros = [tf.zeros(v.shape) for v in self.trainable_variables] + [tf.zeros([])] * 3

        def body(i: tf.Tensor, *sums: tf.Tensor) -> tuple:
            return (i + 1, *(a + b for a, b in zip(sums, one(*micro_batch(i)), strict=True)))

        return list(
            tf.while_loop(
                lambda i, *_: i < count, body, (tf.constant(0), *zeros), parallel_iterations=1
            )[1:]
        )

    def _unpacked(self, data: Any) -> tuple[Any, tf.Tensor, tf.Tensor]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("training data must be (x, y) or (x, y, weights); received no labels")
        if weights is None:
            weights = tf.ones(tf.shape(y)[:1], tf.float32)
        return x, y, tf.cast(weights, tf.float32)

    def _seed_dropout(self, context: Any) -> None:
        """Make every dropout mask a function of (layer, replica, step), so that none is saved."""
        step = tf.cast(self.optimizer.iterations, tf.int32)
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        generators = [g for layer in self._flatten_layers() for g in layer._seed_generators]
        for number, generator in enumerate(generators):
            key = zlib.crc32(f"{generator._initial_seed}/{number}".encode()) >> 1
            # The second word counts a layer's calls, of which a step has a few.
            seed = tf.stack([key + replica, step * (16 * self.gradient_accumulation)])
            generator.state.assign(tf.cast(seed, generator.state.dtype))

    def _logged(self, local: list[tf.Tensor], total: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Count this replica's sums for the epoch; give this step's means over all replicas."""
        objective, loss, weight = local
        self._loss_tracker.update_state(
            tf.math.divide_no_nan(objective, weight), sample_weight=weight
        )
        step = {"loss": tf.math.divide_no_nan(total[0], total[2])}
        if self._given_loss is None:
            self.perplexity.update_state(tf.math.divide_no_nan(loss, weight), sample_weight=weight)
            step["perplexity"] = tf.exp(tf.math.divide_no_nan(total[1], total[2]))
        # `fit` takes the metrics' own results at an epoch's end if the names here are theirs.
        return {**self.get_metrics_result(), **step}

    @property
    def metrics(self) -> list[Any]:
        """What `fit` resets at each epoch; the perplexity only for our own loss."""
        every = super().metrics
        if not self.compiled or self._given_loss is None:
            return every
        return [metric for metric in every if metric is not self.perplexity]

    # ---- how fit calls it

    def make_train_function(self, force: bool = False) -> None:
        """Compile the training step; `fit` calls it with an iterator."""
        if self.train_function is None or force:
            self._prepare_optimizer()
            self.train_function = self._loop(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        """Compile the evaluation step; `evaluate` calls it with an iterator."""
        if self.test_function is None or force:
            self.test_function = self._loop(self.test_step)

    def _loop(self, step: Any) -> Any:
        strategy, steps = self.distribute_strategy, self.steps_per_execution

        def once(data: Any) -> dict[str, tf.Tensor]:
            logs = strategy.run(step, args=(data,))
            return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

        def run(iterator: Any) -> dict[str, tf.Tensor]:
            logs = once(next(iterator))
            for _ in tf.range(steps - 1):
                data = iterator.get_next_as_optional()
                if not data.has_value():  # fewer batches are left
                    break
                logs = once(data.get_value())
            return logs

        def on_data(data: Any) -> dict[str, tf.Tensor]:
            return once(data)

        if not self.run_eagerly:
            run = tf.function(run, reduce_retracing=True)
            on_data = tf.function(on_data, reduce_retracing=True)

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            if not inspect.isgenerator(iterator):
                return run(iterator)
            # From train_on_batch and test_on_batch: a graph must not hold the batch itself.
            data = tf.nest.map_structure(
                lambda t: None if t is None else tf.convert_to_tensor(t), next(iterator)
            )
            return on_data(data)

        return function

    def _prepare_optimizer(self) -> None:
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        inner: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        # The gradients are those of the global batch already; a second sum would scale them up.
        inner._all_reduce_sum_gradients = list

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build the metrics. Keras' way eats a batch and fails on several workers."""
        if not self.built:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        metrics = self._compile_metrics
        if self._distribute_strategy is None or metrics is None or metrics.built:
            return  # without a strategy, metrics make their variables when they are first updated
        data = data_batch if iterator is None else iterator._distributed_dataset.element_spec
        # A PerReplicaSpec holds one spec for each replica.
        data = tf.nest.map_structure(lambda s: getattr(s, "_value_specs", [s])[0], data)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(
            tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), data)
        )
        with self.distribute_strategy.scope():
            metrics.build(y, self(x))

    def _resolve_auto_jit_compile(self) -> bool:
        """XLA is a switch: `compile(jit_compile=True)`. It is slower on a CPU."""
        return False


@keras.saving.register_keras_serializable("tfllm")
class FunctionalTrainingStep(TrainingStep, Functional):
    """What `TrainingStep(inputs=..., outputs=...)` makes."""


def _is_functional(args: tuple, kwargs: dict[str, Any]) -> bool:
    return len(args) == 2 or "outputs" in kwargs


def _spread(weights: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """`weights`, one for each row or each token, as one for each element of `like`."""
    rank, wanted = weights.shape.rank, like.shape.rank
    if rank == wanted:
        return weights
    if rank > wanted:
        if any(size != 1 for size in weights.shape[wanted:]):
            raise ValueError(
                f"weights must have the shape of the losses, {like.shape}, or of their first axes; "
                f"received {weights.shape}"
            )
        return tf.reshape(weights, tf.shape(weights)[:wanted])
    weights = tf.reshape(weights, tf.concat([tf.shape(weights), [1] * (wanted - rank)], 0))
    return tf.broadcast_to(weights, tf.shape(like))
