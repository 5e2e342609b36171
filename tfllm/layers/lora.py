"""Low-rank updates of a projection's weights (LoRA; Hu et al., 2021).

Shape letters: R rows (tokens), I input width, O output width, r sum of the ranks of all parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfllm.layers.dropout import dropout


class LoraPart(NamedTuple):
    """The update of some rows of a projection's weights.

    Args:
        begin: index of the first row.
        end: index after the last row.
        rank: rank of the update.
        scale: factor of the update B A.
    """

    begin: int
    end: int
    rank: int
    scale: float


@keras.saving.register_keras_serializable("tfllm")
class Lora(keras.layers.Layer):
    """The update scale · x Aᵀ Bᵀ of a projection x Wᵀ, with its own A and B for each range of rows.

    A, `[rank, I]`, is initialized with random numbers and B, `[rows, rank]`, with zeros, so that
    the initial update is zero. Both are float32 whatever the dtype policy. Two products suffice for
    any number of parts: the A's are stacked, and the B's form a block matrix.

    Args:
        output_dim: output size of the projection.
        parts: `LoraPart`s: ranges of rows that do not overlap, each with its rank and scale.
        dropout: fraction of x that is dropped if a call is given a seed. Defaults to 0.
        seed: seed of the initial A's. Defaults to None: they are 0, to be assigned.

    Call arguments:
        x: float `[R, I]`.
        seed: seed of dropout, int32 `[2]`; None: no dropout.

    Returns:
        float `[R, output_dim]`, in the dtype of x.
    """

    def __init__(
        self,
        output_dim: int,
        parts: Sequence[Sequence[Any]],
        *,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.output_dim = output_dim
        self.parts = tuple(sorted(LoraPart(*part) for part in parts))
        ends = [0, *(part.end for part in self.parts)]
        for part, before in zip(self.parts, ends, strict=False):
            if not before <= part.begin < part.end <= output_dim or part.rank < 1:
                raise ValueError(
                    "parts must be ranges of rows in order that do not overlap, each of rank 1 or "
                    f"more, within output_dim={output_dim}; received {list(map(tuple, self.parts))}"
                )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); received {dropout}")
        self.dropout = dropout
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Create A and B of each part for inputs `[R, I]`."""
        width = input_shape[-1]
        self.a, self.b = [], []
        for part in self.parts:
            rows = f"{part.begin}_{part.end}"
            initializer: Any = "zeros"
            if self.seed is not None:
                limit = width**-0.5
                own = zlib.crc32(f"{self.seed}/{rows}".encode())
                initializer = keras.initializers.RandomUniform(-limit, limit, seed=own)
            options: dict[str, Any] = {"dtype": "float32", "autocast": False}
            shape = (part.rank, width)
            self.a.append(
                self.add_weight(name=f"a_{rows}", shape=shape, initializer=initializer, **options)
            )
            shape = (part.end - part.begin, part.rank)
            self.b.append(
                self.add_weight(name=f"b_{rows}", shape=shape, initializer="zeros", **options)
            )
        self.built = True

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """The update to add to the projection of x."""
        if seed is not None:
            x = dropout(x, self.dropout, seed)
        return self._product(x, *self._matrices())

    def kernel_update(self) -> tf.Tensor:
        """The update of the weights, scale · B A, float32 `[output_dim, I]`."""
        matrices = self._matrices()
        return tf.matmul(self._blocks(matrices), self._stacked(matrices))

    def _matrices(self) -> list[tf.Tensor]:
        """All A's, followed by all B's."""
        return [tf.convert_to_tensor(matrix) for matrix in (*self.a, *self.b)]

    def _stacked(self, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
        """The stacked A's, float32 `[r, I]`."""
        return tf.concat(matrices[: len(self.parts)], 0)

    def _blocks(self, matrices: Sequence[tf.Tensor]) -> tf.Tensor:
        """The block matrix of each part's scale · B, float32 `[O, r]`."""
        ranks = sum(part.rank for part in self.parts)
        blocks, row, column = [], 0, 0
        for part, b in zip(self.parts, matrices[len(self.parts) :], strict=True):
            if part.begin > row:
                blocks.append(tf.zeros([part.begin - row, ranks]))
            columns = [column, ranks - column - part.rank]
            blocks.append(tf.pad(part.scale * b, [[0, 0], columns]))
            row, column = part.end, column + part.rank
        if row < self.output_dim:
            blocks.append(tf.zeros([self.output_dim - row, ranks]))
        return tf.concat(blocks, 0)

    def _product(self, x: tf.Tensor, *matrices: tf.Tensor) -> tf.Tensor:
        """`call` without dropout, with a custom gradient.

        TensorFlow's own gradient would be the same, but with far more operations, most of them for
        the block matrix; this matters in a graph of many layers.
        """

        @tf.custom_gradient
        def product(x: tf.Tensor, *matrices: tf.Tensor) -> Any:
            a = tf.cast(self._stacked(matrices), x.dtype)
            b = tf.cast(self._blocks(matrices), x.dtype)
            low = tf.matmul(x, a, transpose_b=True)

            def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
                d_low = tf.matmul(upstream, b)
                d_a = tf.cast(tf.matmul(d_low, x, transpose_a=True), tf.float32)
                d_b = tf.cast(tf.matmul(upstream, low, transpose_a=True), tf.float32)
                of_b, column = [], 0
                for part in self.parts:
                    block = d_b[part.begin : part.end, column : column + part.rank]
                    of_b.append(part.scale * block)
                    column += part.rank
                of_a = tf.split(d_a, [part.rank for part in self.parts])
                return [tf.matmul(d_low, a), *of_a, *of_b]

            return tf.matmul(low, b, transpose_b=True), gradient

        return product(x, *matrices)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The input's shape with `output_dim` last."""
        return (*input_shape[:-1], self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("autocast", None)
        return {
            **config,
            "output_dim": self.output_dim,
            "parts": [list(part) for part in self.parts],
            "dropout": self.dropout,
            "seed": self.seed,
        }
