"""Direct preference optimization: a causal language model learns which of two replies is better."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.linear_cross_entropy import linear_cross_entropy, token_losses
from tfllm.optimization.training_step import TrainingStep


class PreferenceTuning(TrainingStep):
    """Direct preference optimization of a `CausalLM` on pairs of replies (Rafailov et al., 2023).

    The loss is -log σ(β · ((c - c₀) - (r - r₀))). c and r are the log-probabilities of the chosen
    and of the rejected reply, sums over their tokens; c₀ and r₀ are those of a reference model,
    usually the same model before tuning (`reference_log_probs`), so that no second model is in
    memory. The logs also have the means over pairs of `accuracy`, how often the chosen reply has
    gained more, and of `margin`, β · ((c - c₀) - (r - r₀)).

    Data are `({"token_ids", "segment_ids", "reference"}, labels, weights)`: int32 `[B, 2, T]`,
    except the reference, float32 `[B, 2]`, and the weights, float32 `[B, 2, T]`, 1 for the tokens
    of a reply. The chosen reply has index 0, the rejected one index 1. A pair whose weights are all
    0 is ignored.

    Args:
        model: the `CausalLM` to tune, in place. Its frozen weights stay frozen, and its adapter in
            use is trained.
        beta: β: the higher, the closer the model stays to the reference. Defaults to 0.1.

    Raises:
        ValueError: beta is not positive, or the model is not a `CausalLM`.

    Examples:
        >>> from tfllm.models.preference_tuning import PreferenceTuning
        >>> model = tfllm.Transformer(vocab_size=64, embedding_dim=16, num_heads=2, num_layers=1)
        >>> ids = np.ones([1, 2, 4], "int32")
        >>> x = {"token_ids": ids, "segment_ids": ids, "reference": np.zeros([1, 2], "float32")}
        >>> tuning = PreferenceTuning(model)
        >>> tuning.compile("adamw")
        >>> history = tuning.fit(x, ids, sample_weight=np.ones([1, 2, 4]), verbose=0)
    """

    step_metrics = ("accuracy", "margin")
    is_log_loss = False

    def __init__(self, model: CausalLM, *, beta: float = 0.1, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        if not isinstance(model, CausalLM):
            raise ValueError(f"the model must be a tfllm.CausalLM; received {type(model).__name__}")
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta must be positive and finite; received {beta}")
        self.model = model
        self.beta = beta
        self.built = True

    def kept_model(self) -> CausalLM:
        """The model that is tuned."""
        return self.model

    classes_name = "vocab_size"

    @property
    def num_classes(self) -> int:
        """The size of the vocabulary, since labels are tokens."""
        return self.model.config.vocab_size

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: only the tuned model can be quantized.

        Raises:
            ValueError: always.
        """
        raise ValueError("quantize the tuned model instead, afterwards: tuning.model.quantize(...)")

    def check_class_weight(self) -> None:
        """Raise an error, since each pair of replies counts as a whole.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "class_weight is not supported for pairs of replies, each of which counts as a whole; "
            "leave class_weight out"
        )

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Logits of both replies, float32 `[B, 2, T, V]`."""
        logits = self.model(_rows(inputs), training=training)
        return tf.reshape(logits, tf.concat([tf.shape(inputs["token_ids"]), [-1]], 0))

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums over pairs: losses, number of pairs, correct pairs, margins. No logits are kept."""
        hidden, kernel, labels = self._projected(x, y, training)
        losses = token_losses(tf.stop_gradient(hidden), tf.stop_gradient(kernel), labels)
        log_probs = -tf.reduce_sum(tf.reshape(losses, tf.shape(y)) * weights, -1)
        gains = log_probs - tf.cast(x["reference"], tf.float32)
        margin = self.beta * (gains[:, 0] - gains[:, 1])
        pairs = tf.cast(tf.reduce_any(weights != 0, [1, 2]), tf.float32)
        loss = tf.reduce_sum(pairs * tf.math.softplus(-margin))
        if training:
            # d loss / d c = -β σ(-margin) and d loss / d r its negative, so the gradient is that
            # of a cross-entropy with these token weights, which is computed in chunks.
            slope = self.beta * tf.sigmoid(-margin) * pairs
            signed = tf.stack([slope, -slope], 1)[..., tf.newaxis] * weights
            weighted = linear_cross_entropy(
                hidden,
                kernel,
                labels,
                tf.reshape(signed, [-1]),
                with_kernel_gradient=self.model.output_variable.trainable,
            )
            loss += weighted - tf.stop_gradient(weighted)
        right = tf.reduce_sum(pairs * tf.cast(margin > 0, tf.float32))
        return loss, tf.reduce_sum(pairs), right, tf.reduce_sum(pairs * margin)

    def log_probs(self, x: Any, y: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """The log-probability of each reply, float32 `[B, 2]`."""
        losses = tf.reshape(token_losses(*self._projected(x, y, training=False)), tf.shape(y))
        return -tf.reduce_sum(losses * weights, -1)

    def reference_log_probs(self, pairs: tf.data.Dataset, num_pairs: int) -> Any:
        """The results of `log_probs` for all pairs of a dataset, in order.

        Args:
            pairs: batches as described for the class; their reference is not used.
            num_pairs: number of pairs; the rest of the last batch is left out.

        Returns:
            float32 NumPy array `[num_pairs, 2]`.
        """
        log_probs = tf.function(self.log_probs, reduce_retracing=True)
        found = [log_probs(*batch) for batch in pairs]
        return tf.concat(found, 0).numpy()[:num_pairs]

    def _projected(
        self, x: Any, y: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The states `[2 B T, E]`, the output projection `[V, E]`, and the labels `[2 B T]`."""
        hidden, _ = self.model.hidden_states(_rows(x), training=training)
        hidden = tf.reshape(hidden, [-1, self.model.config.embedding_dim])
        kernel = tf.cast(self.model.output_weights, hidden.dtype)
        return hidden, kernel, tf.reshape(tf.cast(y, tf.int32), [-1])


def _rows(inputs: Any) -> dict[str, tf.Tensor]:
    """Pairs `[B, 2, T]` as rows `[2 B, T]`."""
    return {
        name: tf.reshape(inputs[name], [-1, inputs[name].shape[-1] or tf.shape(inputs[name])[-1]])
        for name in ("token_ids", "segment_ids")
    }
