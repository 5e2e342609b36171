"""The token embedding, and the output projection to the tokens' logits.

Shape letters: E width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfllm.layers.projection import product_with_rows
from tfllm.layers.quantized import (
    Int8Embedding,
    add_int8_matrix,
    dequantized,
    int8_product,
    is_int8,
    multiplies_integers,
)


@keras.saving.register_keras_serializable("tfllm")
class TokenEmbedding(keras.layers.Embedding):
    """A model's token embedding, which may also be its output projection.

    For the arguments see `keras.layers.Embedding`.
    """

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Raise an error: the output projection would read integers without their scales.

        Raises:
            NotImplementedError: always; Keras then leaves the layer unchanged and warns.
        """
        raise NotImplementedError(
            f"{self.path} is not quantized: it is part of a tfllm model, which is quantized as a "
            "whole; call that model's quantize('int8') before you put other layers around it"
        )


def embedding_table(size: int, width: int, initializer: Any, *, name: str, dtype: Any) -> Any:
    """An embedding layer; under an int8 policy one of integers, 0 until it is assigned."""
    if is_int8(dtype):
        return Int8Embedding(size, width, name=name, dtype=dtype)
    return TokenEmbedding(size, width, embeddings_initializer=initializer, name=name, dtype=dtype)


class VocabularyMethods:
    """The output projection of a model that has `config` and `token_embedding`.

    It is the token embedding if the two are tied, else a separate kernel, and may have a bias
    `[1, V]`.
    """

    config: Any
    token_embedding: Any
    output_kernel: Any
    output_kernel_scale: Any
    output_bias: Any = None
    add_weight: Any
    compute_dtype: Any
    dtype_policy: Any

    classes_name = "vocab_size"

    @property
    def num_classes(self) -> int:
        """The size of the vocabulary, since labels are tokens."""
        return self.config.vocab_size

    def _add_output_kernel(self, initializer: Any) -> None:
        """Create the kernel, unless the projection is the token embedding."""
        self.output_kernel = None
        if self.config.tied_embeddings:
            return
        shape = (self.config.vocab_size, self.config.embedding_dim)
        if is_int8(self.dtype_policy):
            self.output_kernel = add_int8_matrix(self, "output_kernel", shape)
        else:
            self.output_kernel = self.add_weight(
                name="output_kernel", shape=shape, initializer=initializer
            )

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """The logits of states `[..., E]`, float32 `[..., V]`."""
        rows = tf.reshape(states, [-1, self.config.embedding_dim])
        if is_int8(self.dtype_policy):
            logits = int8_product(
                rows,
                self.output_variable,
                self._output_scale,
                as_integers=states.shape.rank == 2 and multiplies_integers(self.dtype_policy),
            )
        else:
            logits = product_with_rows(rows, tf.cast(self.output_weights, rows.dtype))
        logits = tf.cast(logits, tf.float32)
        if self.output_bias is not None:
            logits = tf.nn.bias_add(logits, tf.convert_to_tensor(self.output_bias)[0])
        if states.shape.rank == 2:
            return logits
        size = self.config.vocab_size
        logits = tf.reshape(logits, [*tf.unstack(tf.shape(states))[:-1], size])
        return tf.ensure_shape(logits, [*states.shape[:-1], size])

    @property
    def output_weights(self) -> tf.Tensor:
        """The output projection `[V, E]`: the token embedding if the two are tied."""
        if is_int8(self.dtype_policy):
            return dequantized(self.output_variable, self._output_scale, self.compute_dtype)
        return tf.convert_to_tensor(self.output_variable)

    @property
    def output_variable(self) -> Any:
        """The variable that `output_weights` reads."""
        return self.token_embedding.embeddings if self.output_kernel is None else self.output_kernel

    @property
    def _output_scale(self) -> Any:
        """The scale of each row of an int8 output projection."""
        if self.output_kernel is None:
            return self.token_embedding.embeddings_scale
        return self.output_kernel_scale
