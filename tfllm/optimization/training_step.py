"""A training step for `keras.Model.fit` that is correct for language models under any strategy.

Keras' own step takes means of means (wrong if batches or replicas have different numbers of
tokens), passes optimizers sparse gradients whose repeated rows they do not sum, clips on each
replica before the gradients are summed, and cannot accumulate gradients under a strategy. This step
sums losses and dense gradients over micro-batches, all-reduces them once, divides by the number of
tokens of the global batch, and then applies the optimizer with its clipping.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras
import tensorflow as tf

from tfllm import keras_internals
from tfllm.optimization.fit_arguments import FitArguments
from tfllm.optimization.labels import checked_ids, counted_labels, is_sparse_cross_entropy
from tfllm.optimization.micro_batches import added_up
from tfllm.optimization.perplexity import Perplexity
from tfllm.optimization.step_loop import StepLoop

_SUM = tf.distribute.ReduceOp.SUM
_WEIGHT = 2
"""index of the sum of weights among a step's sums"""


class TrainingStep(StepLoop, FitArguments, keras.Model):
    """A `keras.Model` whose `fit` and `evaluate` weight all tokens of the global batch equally.

    Data are `(x, y)` or `(x, y, weights)`: inputs, labels int `[B, T]` and weights float `[B, T]`.
    Without `compile(loss=...)` the loss is the cross-entropy of the model's logits; a loss that is
    given must be one that `keras.losses.get` accepts, and is also averaged over tokens. The logs
    contain `loss`, for the built-in cross-entropy `perplexity` (without regularization losses), and
    the metrics of `compile(metrics=..., weighted_metrics=...)`, which need all logits at once.

    `TrainingStep(inputs=..., outputs=...)` is a functional model, and `TrainingStep.of(model)`
    gives this step to any other Keras model.

    Attributes to set before `fit`:
        gradient_accumulation: number of micro-batches that a batch is split into. Defaults to 1.
        detailed_logs: whether the logs of a step also contain `gradient_norm` (global norm of the
            mean gradient, before clipping) and `input_seconds` (time spent waiting for data).
            Defaults to False.
        votes_to_stop: a float32 scalar `tf.Variable` of this process; the logs then contain
            `votes_to_stop`, its sum over all replicas, so that all workers can stop together.
            Defaults to None.

    Examples:
        >>> ids = keras.Input([8], dtype="int32")
        >>> logits = keras.layers.Dense(32)(keras.layers.Embedding(32, 16)(ids))
        >>> model = tfllm.training.TrainingStep(ids, logits)
        >>> model.gradient_accumulation = 2
        >>> model.compile("adamw")
        >>> history = model.fit(np.ones([4, 8]), np.ones([4, 8]), verbose=0)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A new instance, which is a functional model if inputs and outputs are given."""
        if cls is TrainingStep and _is_functional(args, kwargs):
            cls = FunctionalTrainingStep
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _is_functional(args, kwargs):
            keras_internals.make_functional(type(self))
        super().__init__(*args, **kwargs)
        self._prepare_step()

    @classmethod
    def of(cls, model: keras.Model) -> Any:
        """Give this step to a Keras model of any kind.

        Its logits must be its only output. Compile it afterwards; its own `train_step` is no longer
        used.

        Args:
            model: for example a functional model, or a KerasHub `CausalLM` without preprocessor.

        Returns:
            the same object.
        """
        if isinstance(model, TrainingStep):
            return model
        keras_internals.of_class(model, TrainingStep)
        step: Any = model
        with step.distribute_strategy.scope():
            step._prepare_step()
        return step

    def _prepare_step(self) -> None:
        self.gradient_accumulation = 1
        self.detailed_logs = False
        self.votes_to_stop: tf.Variable | None = None
        self._class_weights = None
        self.perplexity = Perplexity()
        self.step_means = {name: keras.metrics.Mean(name) for name in self.step_metrics}

    optimizer: Any

    # ---- what a model may define

    step_metrics: tuple[str, ...] = ()
    """names of the further sums of `loss_sums`; each is logged as a mean, weighted like the loss"""
    is_log_loss = True
    """whether the loss is a mean of negative log-probabilities, so that it has a perplexity"""

    def kept_model(self) -> Any:
        """The model to keep after training; differs from this one if this one only wraps it."""
        return self

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sum over tokens of weight · loss, the sum of weights, and one for each of `step_metrics`.

        All are float32 scalars. `logits` are given if they have already been computed for metrics.
        """
        if logits is None:
            logits = self(x, training=training)
        y = checked_ids(y, logits.shape[-1], what="labels", bound="the number of logits")
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))
        return tf.reduce_sum(losses * weights), tf.reduce_sum(weights)

    untrainable: str = ""
    """why this model, or one that contains it, cannot be trained; empty if it can"""

    # ---- one step

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Update the weights once, from this replica's part of the batch."""
        context = tf.distribute.get_replica_context()
        x, y, weights = self._unpacked(data)
        variables = self.trainable_variables
        self._seed_dropout(context)
        # Only keeps float16 gradients in range; it is undone below.
        size = tf.cast(tf.maximum(tf.size(y), 1), tf.float32)

        def one(x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
            # Otherwise the tape would also keep what the gradients of frozen weights need.
            watched = [v.value for v in variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                objective_sum, *sums = self._sums(x, y, weights, training=True)
                objective = self.optimizer.scale_loss(objective_sum / size)
            gradients = tape.gradient(
                objective, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
            return [*dense, objective_sum, *sums]

        if self.jit_compile:
            one = tf.function(one, jit_compile=True)
        zeros = [*(tf.zeros(v.shape) for v in variables), *self._no_sums()]
        local = added_up(one, (x, y, weights), self.gradient_accumulation, zeros)
        votes = tf.zeros([]) if self.votes_to_stop is None else tf.identity(self.votes_to_stop)
        total = [*local, votes]
        if context.num_replicas_in_sync > 1:  # their sizes differ in an epoch's last batch
            scaled = [g * size for g in local[: len(variables)]]
            total = context.all_reduce(_SUM, [*scaled, *local[len(variables) :], votes])
            size = 1.0
        *total, votes = total
        sums = total[len(variables) :]
        mean = tf.math.divide_no_nan(size, sums[_WEIGHT])
        gradients = [g * mean for g in total[: len(variables)]]
        details = {}
        if self.votes_to_stop is not None:
            details["votes_to_stop"] = votes
        if self.detailed_logs:
            details["gradient_norm"] = tf.linalg.global_norm(gradients) / self._loss_scale()
        self.optimizer.apply(gradients, variables)
        return {**self._logged(local[len(variables) :], sums), **details}

    def _loss_scale(self) -> Any:
        """The factor by which float16 gradients are scaled up."""
        scale = getattr(self.optimizer, "dynamic_scale", None)
        return 1.0 if scale is None else tf.convert_to_tensor(scale)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Compute the loss of this replica's part of the batch."""
        x, y, weights = self._unpacked(data)

        def one(x: Any, y: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
            return list(self._sums(x, y, weights, training=False))

        # In as many micro-batches as in training, since they are chosen to fit the memory.
        local = added_up(one, (x, y, weights), self.gradient_accumulation, self._no_sums())
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(_SUM, local) if context.num_replicas_in_sync > 1 else local
        return self._logged(local, total)

    def _no_sums(self) -> list[tf.Tensor]:
        """Zeros in the shape of the results of `_sums`."""
        given = 0 if self._given_loss is not None else len(self.step_metrics)
        return [tf.zeros([])] * (3 + given)

    def _sums(self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool) -> tuple:
        """Sums over tokens: what is minimized, only the loss, the weights, and `step_metrics`."""
        keras_internals.forget_losses(self)  # of an earlier graph
        given, metrics = self._given_loss, keras_internals.metrics_of_user(self)
        outputs, metric_sums = None, []
        if given is not None or metrics is not None:
            outputs = self(x, training=training)
        y, weights = self._counted(y, weights, outputs, training)
        if metrics is not None:
            metrics.update_state(y, outputs, weights)
        if given is None:
            known = {} if outputs is None else {"logits": outputs}
            loss_sum, weight_sum, *metric_sums = self.loss_sums(
                x, y, _spread(weights, y), training=training, **known
            )
        else:
            losses = given(y, outputs)
            weights = _spread(weights, losses)
            for masked in (outputs, losses):  # as Keras does
                mask = keras_internals.mask_of(masked)
                if mask is not None:
                    weights *= tf.cast(_spread(mask, losses), tf.float32)
            loss_sum = tf.reduce_sum(tf.cast(losses, tf.float32) * weights)
            weight_sum = tf.reduce_sum(weights)
        # Regularization losses are not sums over tokens. Weighted by the tokens, the parts of all
        # micro-batches and replicas add up to each of them once.
        objective_sum = loss_sum
        for extra in self.losses:
            objective_sum += tf.reduce_sum(tf.cast(extra, tf.float32)) * weight_sum
        return objective_sum, loss_sum, weight_sum, *metric_sums

    def _counted(
        self, y: Any, weights: tf.Tensor, outputs: Any, training: bool
    ) -> tuple[Any, tf.Tensor]:
        """If labels are classes: the labels, checked, and the weights of those that count."""
        table = self._class_weights if training else None
        user = keras_internals.loss_of_user(self)
        classes = self.labels_are_classes if user is None else is_sparse_cross_entropy(user)
        numbers = isinstance(y, tf.Tensor) and (y.dtype.is_integer or y.dtype.is_floating)
        if not (classes and numbers):
            if table is not None:
                raise ValueError(
                    "class_weight needs labels that are class indices, and a loss that takes such "
                    "labels; use sample_weight for others"
                )
            return y, weights
        num_classes, bound = self.num_classes, self.classes_name
        if num_classes is None and isinstance(outputs, tf.Tensor):
            num_classes, bound = outputs.shape[-1], "the number of logits"
        return counted_labels(y, _spread(weights, y), num_classes, table, bound=bound)

    @property
    def _given_loss(self) -> Any:
        """The element-wise function of compile(loss=...); None for the built-in loss."""
        given = keras_internals.loss_of_user(self)
        if given is None:
            return None
        if isinstance(given, list | tuple | dict):
            raise ValueError(
                "loss must be a single loss for the model's one output, not a list or a dictionary "
                f"of losses; received loss={given!r}"
            )
        given = keras.losses.get(given)
        return given.call if isinstance(given, keras.losses.Loss) else given

    def _unpacked(self, data: Any) -> tuple[Any, tf.Tensor, tf.Tensor]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("training data must be (x, y) or (x, y, weights); received no labels")
        if weights is None:
            weights = tf.ones(tf.shape(y)[:1], tf.float32)
        return x, y, tf.cast(weights, tf.float32)

    def _seed_dropout(self, context: Any) -> None:
        """Derive dropout seeds from (layer, replica, step), so that no state needs to be saved."""
        step = tf.cast(self.optimizer.iterations, tf.int32)
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        for number, (initial, state) in enumerate(keras_internals.seed_generators(self)):
            key = zlib.crc32(f"{initial}/{number}".encode()) >> 1
            # The second word counts a layer's calls; a step has a few of them.
            seed = tf.stack([key + replica, step * (16 * self.gradient_accumulation)])
            state.assign(tf.cast(seed, state.dtype))

    def _logged(self, local: list[tf.Tensor], total: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Add this replica's sums to the epoch's; return this step's means over all replicas."""
        objective, loss, weight, *metric_sums = local
        keras_internals.count_loss(self, tf.math.divide_no_nan(objective, weight), weight)
        step = {"loss": tf.math.divide_no_nan(total[0], total[_WEIGHT])}
        of_all_replicas = total[_WEIGHT + 1 :]
        for name, mine, of_all in zip(
            self.step_metrics, metric_sums, of_all_replicas, strict=False
        ):
            self.step_means[name].update_state(
                tf.math.divide_no_nan(mine, weight), sample_weight=weight
            )
            step[name] = tf.math.divide_no_nan(of_all, total[_WEIGHT])
        if self._has_perplexity:
            self.perplexity.update_state(tf.math.divide_no_nan(loss, weight), sample_weight=weight)
            step["perplexity"] = tf.exp(tf.math.divide_no_nan(total[1], total[_WEIGHT]))
        return {**self.get_metrics_result(), **step}

    def _get_metrics_result_or_logs(self, logs: Any) -> dict[str, Any]:
        """At an epoch's end, the metrics' own results: the logs here are those of one step."""
        return self.get_metrics_result()

    @property
    def metrics(self) -> list[Any]:
        """The metrics that `fit` resets at each epoch; perplexity only for the built-in loss."""
        every = super().metrics
        if not self.compiled or self._has_perplexity:
            return every
        return [metric for metric in every if metric is not self.perplexity]

    @property
    def _has_perplexity(self) -> bool:
        return self.is_log_loss and self._given_loss is None


@keras.saving.register_keras_serializable("tfllm")
class FunctionalTrainingStep(TrainingStep, keras_internals.Functional):
    """The functional model that `TrainingStep(inputs=..., outputs=...)` creates."""


def _is_functional(args: tuple, kwargs: dict[str, Any]) -> bool:
    return len(args) == 2 or "outputs" in kwargs


def _spread(weights: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Broadcast `weights`, one for each row or each token, to the shape of `like`."""
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
