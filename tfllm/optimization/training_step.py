"""A training step for `keras.Model.fit` that is right for language models, on any strategy.

Keras' own step takes means of means (wrong where batches or replicas have different numbers of
tokens), hands optimizers sparse gradients whose repeated rows they do not sum, clips on each
replica before the gradients are added up, and cannot accumulate under a strategy. Here: sums of
losses and gradients, made dense, over micro-batches; one all-reduce; division by the tokens of
all; then the optimizer, with its clipping.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

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
    `loss` and, for cross-entropy, `perplexity`.

    Set before `fit`:
        gradient_accumulation: micro-batches that a batch is cut into.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gradient_accumulation = 1
        self.perplexity = Perplexity()

    # ---- what a model may define

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Sum over tokens of weight · loss, and the sum of weights, both float32 scalars."""
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
        size = tf.cast(tf.size(weights) * context.num_replicas_in_sync, tf.float32)

        def one(x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss_sum, weight_sum = self._sums(x, y, weights, training=True)
                objective = self.optimizer.scale_loss(loss_sum / size)
            gradients = tape.gradient(
                objective, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
            return [*dense, loss_sum, weight_sum]

        if self.jit_compile:
            one = tf.function(one, jit_compile=True)
        local = self._accumulated(one, x, y, weights)
        *gradients, loss_sum, weight_sum = (
            context.all_reduce(_SUM, local) if context.num_replicas_in_sync > 1 else local
        )
        mean = size / tf.maximum(weight_sum, 1.0)
        gradients = [g * mean for g in gradients]
        self.optimizer.apply(gradients, variables)
        return self._logged(local[-2], local[-1], loss_sum, weight_sum)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss of this replica's share of the batch."""
        x, y, weights = self._unpacked(data)
        local = list(self._sums(x, y, weights, training=False))
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(_SUM, local) if context.num_replicas_in_sync > 1 else local
        return self._logged(*local, *total)

    def _sums(self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool) -> tuple:
        if self._given_loss is None:
            loss_sum, weight_sum = self.loss_sums(x, y, weights, training=training)
        else:
            losses = self._given_loss(y, self(x, training=training))
            loss_sum = tf.reduce_sum(tf.cast(losses, tf.float32) * weights)
            weight_sum = tf.reduce_sum(weights)
        # Regularizers and the like are means already. Weighted by the tokens, the shares of all
        # micro-batches and replicas add up to each of them once.
        for extra in self.losses:
            loss_sum += tf.cast(extra, tf.float32) * weight_sum
        return loss_sum, weight_sum

    @property
    def _given_loss(self) -> Any:
        """The function from compile(loss=...), element by element; None for our own."""
        given = getattr(self, "_compile_loss", None)
        given = given and given._user_loss
        if given is None:
            return None
        given = keras.losses.get(given)
        return given.call if isinstance(given, keras.losses.Loss) else given

    def _accumulated(self, one: Any, x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        """`one` on each micro-batch, its results added up."""
        count = self.gradient_accumulation
        if count == 1:
            return one(x, y, weights)
        rows = y.shape[0]
        if rows is not None and rows % count:
            raise ValueError(
                f"gradient_accumulation must divide the rows of a batch on each replica ({rows}); "
                f"received {count}"
            )
        size = (rows if rows is not None else tf.shape(y)[0]) // count
        slices = tf.nest.map_structure(
            lambda t: tf.reshape(t, tf.concat([[count, size], tf.shape(t)[1:]], 0)), (x, y, weights)
        )
        slices = tf.nest.map_structure(
            lambda s, t: tf.ensure_shape(s, [count, size if rows else None, *t.shape[1:]]),
            slices,
            (x, y, weights),
        )
        zeros = [tf.zeros(v.shape) for v in self.trainable_variables] + [tf.zeros([])] * 2

        def body(i: tf.Tensor, *sums: tf.Tensor) -> tuple:
            micro = tf.nest.map_structure(lambda t: t[i], slices)
            return (i + 1, *(a + b for a, b in zip(sums, one(*micro), strict=True)))

        return list(
            tf.while_loop(
                lambda i, *_: i < count, body, (tf.constant(0), *zeros), parallel_iterations=1
            )[1:]
        )

    def _unpacked(self, data: Any) -> tuple[Any, tf.Tensor, tf.Tensor]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("training data must be (x, y) or (x, y, weights); received no labels")
        weights = (
            tf.ones(tf.shape(y), tf.float32) if weights is None else tf.cast(weights, tf.float32)
        )
        while weights.shape.rank is not None and weights.shape.rank < y.shape.rank:
            weights = weights[..., tf.newaxis] * tf.ones(tf.shape(y), tf.float32)
        return x, y, weights

    def _seed_dropout(self, context: Any) -> None:
        """Make every dropout mask a function of (layer, replica, step), so that none is saved."""
        step = tf.cast(self.optimizer.iterations, tf.int32)
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        states = [v for v in self.non_trainable_variables if "seed_generator_state" in v.path]
        for number, state in enumerate(states):
            seed = tf.stack(
                [1000 * (number + 1) + replica, step * (2 * self.gradient_accumulation)]
            )
            state.assign(tf.cast(seed, state.dtype))

    def _logged(
        self, loss: tf.Tensor, weight: tf.Tensor, all_loss: tf.Tensor, all_weight: tf.Tensor
    ):
        mean = tf.math.divide_no_nan(loss, weight)
        all_mean = tf.math.divide_no_nan(all_loss, all_weight)
        self._loss_tracker.update_state(mean, sample_weight=weight)
        logs = {"loss": all_mean}
        if self._given_loss is None:
            self.perplexity.update_state(mean, sample_weight=weight)
            logs["perplexity"] = tf.exp(all_mean)
        return logs

    @property
    def metrics(self) -> list[Any]:
        """What `fit` resets at each epoch: the loss and, for our own loss, the perplexity."""
        if not getattr(self, "_loss_tracker", None):
            return []
        own = [self._loss_tracker]
        return own if self._given_loss is not None else [*own, self.perplexity]

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

        def once(iterator: Any) -> dict[str, tf.Tensor]:
            logs = strategy.run(step, args=(next(iterator),))
            return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

        def run(iterator: Any) -> dict[str, tf.Tensor]:
            logs = once(iterator)
            for _ in tf.range(steps - 1):
                logs = once(iterator)
            return logs

        if self.run_eagerly:
            return run
        return tf.function(run, reduce_retracing=True)

    def _prepare_optimizer(self) -> None:
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        # The gradients are those of the global batch already; a second sum would scale them up.
        inner._all_reduce_sum_gradients = list

    def _symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the model is built, and Keras' way eats a batch and fails on several workers."""
        if not self.built:
            super()._symbolic_build(*args, **kwargs)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        if not self.built:
            super()._maybe_symbolic_build(*args, **kwargs)

    def _resolve_auto_jit_compile(self) -> bool:
        """XLA is a switch: `compile(jit_compile=True)`. It is slower on a CPU."""
        return False
