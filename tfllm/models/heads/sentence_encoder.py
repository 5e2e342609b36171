"""An encoder that maps a text to a vector, close to those of texts with the same meaning.

Shape letters: B batch, T time, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.encoder_head import EncoderHead
from tfllm.models.token_ids import ids_shape

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""ways to pool states into one vector, with the names of sentence-transformers"""


@keras.saving.register_keras_serializable("tfllm")
class SentenceEncoder(EncoderHead):
    """An encoder that maps a text to one vector (Reimers & Gurevych, Sentence-BERT, 2019).

    By default the vector is the mean of the states, scaled to length 1.

    It learns from pairs of texts that belong together: `({"token_ids" [B, 2, T], ...}, labels
    int [B])`, optionally with weights `[B]`. Each text of a pair must be closer to the other one
    than the other texts of the batch are (in-batch negatives, Henderson et al., 2017), in both
    directions. Rows with the same label, such as two questions with one answer, are not each
    other's negatives; nor are rows of weight 0. Each replica or micro-batch has its own negatives.
    The logs also have `accuracy`, how often the other text of the pair is the closest.

    Args:
        encoder: the encoder or its architecture; see `EncoderHead`.
        pooling: one or several of `POOLINGS`, whose vectors are concatenated: the state of the
            first or the last token, the elementwise maximum, the mean, the sum divided by the
            square root of the number of tokens, or the mean in which the n-th token has weight n.
            Defaults to the mean.
        normalize: divide a vector by its length. Defaults to True.
        temperature: divisor of the cosine similarities before the softmax. Defaults to 0.05.
        text_settings: settings for processing texts, which the model itself does not use; they are
            read from a model's folder and written again when it is saved. Defaults to none.
        kwargs: other arguments of `EncoderHead`.

    Call arguments: those of `Encoder`; or pairs, each array `[B, 2, T]`.

    Returns:
        float32 `[B, E]`, or `[B, 2, E]` for pairs, E being `vector_dim`; 0 for rows without tokens.

    Examples:
        >>> config = tfllm.EncoderConfig(64, embedding_dim=16, num_layers=1, num_heads=2)
        >>> model = tfllm.SentenceEncoder(config)
        >>> model(np.ones([2, 5], "int32")).shape
        TensorShape([2, 16])
    """

    step_metrics = ("accuracy",)
    labels_are_classes = False
    pooler = "kept"  # other programs expect that a BertModel has one

    def __init__(
        self,
        encoder: Encoder | EncoderConfig | dict[str, Any],
        *,
        pooling: Sequence[str] = ("mean",),
        normalize: bool = True,
        temperature: float = 0.05,
        text_settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.pooling = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        unknown = [name for name in self.pooling if name not in POOLINGS]
        if unknown or not self.pooling or len(set(self.pooling)) < len(self.pooling):
            raise ValueError(
                f"pooling must be one or more of {', '.join(POOLINGS)}, each at most once; "
                f"received {pooling!r}"
            )
        self.normalize = normalize
        self.text_settings = dict(text_settings or {})
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite; received {temperature}")
        self.temperature = temperature
        super().__init__(encoder, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """The vectors of the texts."""
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        if given["token_ids"].shape.rank == 2:
            return self._vectors(given, training)
        rows = {}
        for name, value in given.items():
            time = value.shape[-1] if value.shape[-1] is not None else tf.shape(value)[-1]
            rows[name] = tf.reshape(value, [-1, time])
        return tf.reshape(self._vectors(rows, training), [-1, 2, self.vector_dim])

    @property
    def vector_dim(self) -> int:
        """The size of a vector."""
        return len(self.pooling) * self.config.embedding_dim

    def _vectors(self, rows: dict[str, Any], training: bool | None) -> tf.Tensor:
        states, _ = self.encoder.hidden_states(rows, training=training)
        states = tf.cast(states, tf.float32)
        mask = rows.get("padding_mask")
        shape = tf.shape(states)[:2]
        counted = tf.ones(shape) if mask is None else tf.cast(mask, tf.float32)
        pooled = [_pooled(name, states, counted) for name in self.pooling]
        vectors = pooled[0] if len(pooled) == 1 else tf.concat(pooled, -1)
        return _of_length_one(vectors) if self.normalize else vectors

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the vectors, `[B, E]`, for the shape of token ids or inputs."""
        return (*ids_shape(input_shape)[:-1], self.config.embedding_dim)

    def loss_sums(
        self, x: Any, y: tf.Tensor, weights: tf.Tensor, *, training: bool, logits: Any = None
    ) -> tuple[tf.Tensor, ...]:
        """Sums of weight · cross-entropy, of weights, and of weights of correctly found pairs."""
        vectors = self(x, training=training) if logits is None else logits
        vectors = vectors if self.normalize else _of_length_one(vectors)
        scores = tf.matmul(vectors[:, 0], vectors[:, 1], transpose_b=True) / self.temperature
        own = tf.eye(tf.shape(scores)[0], dtype=tf.bool)
        other = tf.not_equal(y[:, tf.newaxis], y)
        counts = tf.not_equal(weights, 0.0)
        scores = tf.where(own | (other & counts & counts[:, tf.newaxis]), scores, -1e9)
        place = tf.range(tf.shape(scores)[0])
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        losses = (entropy(place, scores) + entropy(place, tf.transpose(scores))) / 2
        right = tf.cast(tf.argmax(scores, -1, tf.int32) == place, tf.float32)
        return (
            tf.reduce_sum(losses * weights),
            tf.reduce_sum(weights),
            tf.reduce_sum(right * weights),
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "pooling": list(self.pooling),
            "normalize": self.normalize,
            "temperature": self.temperature,
            "text_settings": self.text_settings,
        }


def _of_length_one(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(vectors, tf.norm(vectors, axis=-1, keepdims=True))


def _pooled(name: str, states: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
    """One vector for each row.

    Args:
        name: one of `POOLINGS`.
        states: float32 `[B, T, E]`.
        counted: float32 `[B, T]`: 1 for a token, 0 for padding.

    Returns:
        float32 `[B, E]`; 0 for rows without tokens.
    """
    number = tf.reduce_sum(counted, -1, keepdims=True)
    place = tf.range(tf.shape(counted)[1])
    if name in ("cls", "lasttoken"):
        ends = tf.math.argmax(counted, -1, tf.int32)
        if name == "lasttoken":
            ends = tf.reduce_max(tf.where(counted > 0, place, -1), -1)
        weights = tf.cast(place == ends[:, tf.newaxis], tf.float32) * counted
        return tf.einsum("bte,bt->be", states, weights)
    if name == "max":
        lowest = tf.where(counted[..., tf.newaxis] > 0, states, states.dtype.min)
        return tf.where(number > 0, tf.reduce_max(lowest, 1), 0.0)
    if name == "weightedmean":
        counted *= tf.cast(place + 1, tf.float32)
        number = tf.reduce_sum(counted, -1, keepdims=True)
    elif name == "mean_sqrt_len_tokens":
        number = tf.sqrt(number)
    return tf.math.divide_no_nan(tf.einsum("bte,bt->be", states, counted), number)
