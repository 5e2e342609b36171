"""The base classes of models that consist of an encoder and a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfllm.config import build
from tfllm.layers.dropout import dropout, next_seed
from tfllm.layers.projection import Projection, forked
from tfllm.layers.quantized import assign_weights
from tfllm.models.encoder import Encoder, normal_initializer
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.verbs import ModelVerbs
from tfllm.optimization.training_step import TrainingStep


class EncoderHead(ModelVerbs, TrainingStep):
    """Base class of an encoder with a head, which is computed from the encoder's states.

    Args:
        encoder: a pretrained `Encoder`, which becomes part of this model (its pooler is added or
            removed, as the head needs); or the architecture of a new one.
        pooler: give a new encoder a pooler, for heads that do not use it but keep it. Defaults to
            False.
        seed: seed of the initial weights and of dropout. Defaults to 0.
        rematerialize: recompute each block of a new encoder in the backward pass. Defaults to
            False.
        dtype: dtype policy; an encoder of another policy is copied. Defaults to the encoder's.
    """

    pooler: Literal["used", "kept", "removed"] = "removed"
    """what becomes of the encoder's pooler"""
    is_log_loss = False
    built: bool

    def __init__(
        self,
        encoder: Encoder | EncoderConfig | dict[str, Any],
        *,
        pooler: bool = False,
        seed: int | None = 0,
        rematerialize: bool = False,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(encoder, dict):
            encoder = build(EncoderConfig, encoder)
        if isinstance(encoder, EncoderConfig):
            encoder = Encoder(
                encoder,
                pooler=pooler,
                seed=seed,
                rematerialize=rematerialize,
                dtype=dtype,
                name="encoder",
            )
        elif not isinstance(encoder, Encoder):
            raise ValueError(
                f"a head needs an Encoder or an EncoderConfig; received {type(encoder).__name__}"
            )
        elif dtype is not None and _policy_name(dtype) != encoder.dtype_policy.name:
            encoder = encoder.with_dtype(dtype)
        super().__init__(dtype=encoder.dtype_policy, **kwargs)
        self.seed = seed
        self.encoder = encoder
        if self.pooler == "used":
            encoder.add_pooler()
        elif self.pooler == "removed":
            encoder.remove_pooler()
        rate = encoder.config.dropout
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None
        self.build((None, None))
        self._keep_floats_alone()

    @property
    def config(self) -> EncoderConfig:
        """The encoder's architecture."""
        return self.encoder.config

    @property
    def rematerialize(self) -> bool:
        """Whether the encoder recomputes its blocks in the backward pass."""
        return self.encoder.rematerialize

    @property
    def unlike_dropouts(self) -> Mapping[str, float]:  # type: ignore[override]
        """The encoder's `unlike_dropouts`; see `mark_unlike_dropouts`."""
        return self.encoder.unlike_dropouts

    @property
    def untrainable(self) -> str:  # type: ignore[override]
        """Why the encoder, and so this model, cannot be trained; empty if it can."""
        return self.encoder.untrainable

    def mark_unlike_dropouts(self, rates: Mapping[str, float], why: str) -> None:
        """Mark the encoder, which keeps the mark under another head; see `ModelVerbs`."""
        self.encoder.mark_unlike_dropouts(rates, why)

    def build(self, input_shape: Any) -> None:
        """Create the head's weights; they do not depend on the input's shape."""
        del input_shape
        if not self.built:
            self._build_head()
            self.built = True

    def _build_head(self) -> None:
        """Create the layers of the head; none by default."""

    def _projection(self, name: str, size: int) -> Projection:
        """A projection of states to `size` logits, in float32."""
        initializer = normal_initializer(self.config, self.seed)
        projection = Projection(
            size,
            use_bias=True,
            kernel_initializer=forked(initializer, name),
            name=name,
            dtype="float32",
        )
        projection.build((None, self.config.embedding_dim))
        return projection

    def _dropped(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        """x in float32, with dropout in training."""
        x = tf.cast(x, tf.float32)
        if training and self.config.dropout:
            x = dropout(x, self.config.dropout, next_seed(self.seed_generator))
        return x

    def attention_weights(self, inputs: Any) -> list[tf.Tensor]:
        """Each layer's attention weights, `[B, num_heads, T, T]`."""
        return self.encoder.attention_weights(inputs)

    def with_dtype(self, dtype: Any) -> Any:
        """A copy with another dtype policy, such as "bfloat16" for serving; weights are cast."""
        copy = type(self).from_config({**self.get_config(), "seed": None, "dtype": dtype})
        assign_weights(copy.weights, self.weights)
        return self.copied_to(copy)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the encoder's architecture in place of the encoder."""
        return {
            **super().get_config(),
            "encoder": dataclasses.asdict(self.config),
            "pooler": self.encoder.pooler is not None,
            "seed": self.seed,
            "rematerialize": self.rematerialize,
        }


class LabelledHead(EncoderHead):
    """Base class of heads that classify, with one of several labels.

    Args:
        encoder: the encoder or its architecture; see `EncoderHead`.
        num_labels: number of labels. Defaults to the number of label_names.
        label_names: names of the labels, all different. Defaults to LABEL_0, LABEL_1, ...
        kwargs: other arguments of `EncoderHead`.

    Raises:
        ValueError: there are fewer than two labels, or the names do not match their number.
    """

    step_metrics = ("accuracy",)

    def __init__(
        self,
        encoder: Encoder | EncoderConfig | dict[str, Any],
        *,
        num_labels: int | None = None,
        label_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if num_labels is None:
            num_labels = len(label_names or ())
        if num_labels < 2:
            raise ValueError(f"num_labels must be at least 2; received {num_labels}")
        names = [f"LABEL_{i}" for i in range(num_labels)] if label_names is None else label_names
        if len(set(names)) != num_labels:
            raise ValueError(
                f"label_names must be {num_labels} (num_labels) different names; "
                f"received {list(names)}"
            )
        self.num_labels = num_labels
        self._label_names = tuple(names)
        super().__init__(encoder, **kwargs)

    classes_name = "num_labels"

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return self.num_labels

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits."""
        return self._label_names

    def _build_head(self) -> None:
        self.classifier = self._projection("classifier", self.num_labels)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums of weight · cross-entropy, of weights, and of weights of correct predictions."""
        if logits is None:
            logits = self(x, training=training)
        y = tf.cast(y, tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        right = tf.cast(tf.argmax(logits, -1, tf.int32) == y, tf.float32)
        return (
            tf.reduce_sum(losses * weights),
            tf.reduce_sum(weights),
            tf.reduce_sum(right * weights),
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "label_names": list(self.label_names),
        }


def _policy_name(dtype: Any) -> str:
    return keras.dtype_policies.get(dtype).name if isinstance(dtype, str) else dtype.name
