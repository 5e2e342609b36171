"""Direct preference optimization: a causal language model learns which of two replies is liked."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.linear_cross_entropy import linear_cross_entropy, token_losses
from tfllm.optimization.training_step import TrainingStep


class PreferenceTuning(TrainingStep):
    """-log σ(β · ((c - c₀) - (r - r₀))) of pairs of replies (Rafailov et al., DPO, 2023).

    c and r are the log-probabilities of the chosen and of the rejected reply, sums over their
    tokens, and c₀ and r₀ those that a reference model gives: as a rule the same model before it
    was tuned (`reference_log_probs`), so that no second model is in memory. The loss and what is
    logged besides are means over pairs: `accuracy`, how often the chosen reply has gained more,
    and `margin`, β · ((c - c₀) - (r - r₀)).

    Data are `({"token_ids", "segment_ids", "reference"}, labels, weights)`: int32 `[B, 2, T]`, but
    for the reference, float32 `[B, 2]`, and the weights, float32 `[B, 2, T]`, 1 for the tokens of
    a reply. The chosen reply stands at 0, the rejected one at 1. A pair without weights does not
    count.

    Args:
        model: what is tuned, in place. Frozen weights and adapters are its own affair.
        beta: β: the higher, the closer the model stays to the reference.

    Raises:
        ValueError: beta is not positive, or the model is no `CausalLM`.
    """

    measures = ("accuracy", "margin")
    is_log_loss = False

    def __init__(self, model: CausalLM, *, beta: float = 0.1, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(**kwargs)
        if not isinstance(model, CausalLM):
            raise ValueError(f"a tfllm.CausalLM is tuned; received {type(model).__name__}")
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
        """How many tokens a label can be."""
        return self.model.config.vocab_size

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: what is tuned is the model inside.

        Raises:
            ValueError: always.
        """
        raise ValueError("quantize the model that is tuned, afterwards: tuning.model.quantize(...)")

    def check_class_weight(self) -> None:
        """Weights here say which tokens are a reply's.

        Raises:
            ValueError: always.
        """
        raise ValueError("class_weight is not for pairs of replies, which count as wholes")

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Logits of either side, float32 `[B, 2, T, V]`."""
        logits = self.model(_rows(inputs), training=training)
        return tf.reshape(logits, tf.concat([tf.shape(inputs["token_ids"]), [-1]], 0))

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums over pairs: the loss, the pairs, right ones and margins; no logits are kept."""
        hidden, kernel, labels = self._projected(x, y, training)
        losses = token_losses(tf.stop_gradient(hidden), tf.stop_gradient(kernel), labels)
        log_probs = -tf.reduce_sum(tf.reshape(losses, tf.shape(y)) * weights, -1)
        gains = log_probs - tf.cast(x["reference"], tf.float32)
        margin = self.beta * (gains[:, 0] - gains[:, 1])
        pairs = tf.cast(tf.reduce_any(weights != 0, [1, 2]), tf.float32)
        loss = tf.reduce_sum(pairs * tf.math.softplus(-margin))
        if training:
            # d loss / d c = -β σ(-margin) and d loss / d r its negative, so the gradient is that
            # of a cross-entropy whose tokens have these weights: it is taken in chunks.
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
        """What `log_probs` gives for all pairs of a dataset, in its order.

        Args:
            pairs: batches as above; what their reference is does not matter.
            num_pairs: how many pairs there are; the rest of the last batch is left out.

        Returns:
            float32 NumPy array `[num_pairs, 2]`.
        """
        log_probs = tf.function(self.log_probs, reduce_retracing=True)
        found = [log_probs(*batch) for batch in pairs]
        return tf.concat(found, 0).numpy()[:num_pairs]

    def _projected(
        self, x: Any, y: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The states `[2 B T, E]`, what projects them to logits `[V, E]`, and the labels."""
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
