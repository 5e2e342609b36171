"""Position encodings: rotary, learned and sinusoidal.

Shape letters: B batch, T time, D head size, E width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfllm.layers.shapes import ShapeShown


def rotary_frequencies(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Angle per position of each pair of a head's elements: `theta^(-2i / head_dim)`.

    Args:
        head_dim: size of a head, even.
        theta: base of the frequencies.
        scaling: how the frequencies are lowered for sequences longer than those seen in training:
            the fields of `tfllm.config.RopeScaling`. "linear" divides all frequencies by `factor`
            (Chen et al., Position Interpolation, 2023); "llama3" divides only those whose
            wavelength is long compared with the original context, with a smooth transition
            (Grattafiori et al., Llama 3, 2024).

    Returns:
        float32 `[head_dim / 2]`.

    Raises:
        ValueError: `head_dim` is odd, or the scaling is of another type.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim must be even for rotary positions; received {head_dim}")
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is not None:
        frequencies = frequencies * _share_kept(frequencies, scaling)
    return frequencies.astype(np.float32)


def _share_kept(frequencies: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray | float:
    """What to multiply each frequency by: 1 keeps it, 1 / factor lowers it fully."""
    kind, lowest = scaling["rope_type"], 1 / scaling["factor"]
    if kind == "linear":
        return lowest
    if kind != "llama3":
        raise ValueError(f"rope_type must be linear or llama3; received {kind!r}")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves_in_context = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((waves_in_context - low) / (high - low), 0, 1)
    return kept + (1 - kept) * lowest


def rotary_tables(
    positions: tf.Tensor,
    head_dim: int,
    theta: float,
    dtype: Any,
    scaling: Mapping[str, Any] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosines and sines of the rotations, computed once for all layers.

    Args:
        positions: int `[T]` or `[B, T]`.
        head_dim: size of a head, even.
        theta: base of the frequencies.
        dtype: dtype of the result; the angles are float32.
        scaling: as for `rotary_frequencies`.

    Returns:
        two tensors `[1 or B, 1, T, D]`; the sine has its first half negated, so that
        `rotate` needs no negation.
    """
    if positions.shape.rank == 1:
        positions = positions[tf.newaxis]
    angle_BTd = tf.cast(positions, tf.float32)[..., tf.newaxis] * rotary_frequencies(
        head_dim, theta, scaling
    )
    cosine, sine = tf.cos(angle_BTd), tf.sin(angle_BTd)
    cosine = tf.concat([cosine, cosine], -1)[:, tf.newaxis]
    sine = tf.concat([-sine, sine], -1)[:, tf.newaxis]
    return tf.cast(cosine, dtype), tf.cast(sine, dtype)


def rotate(x: tf.Tensor, tables: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Rotate each pair (i, i + D/2) of a head by its position's angle (Su et al., RoFormer, 2021).

    The two halves are paired, as in the Hugging Face ecosystem, and not neighbouring elements, as
    in the paper; the two forms differ by a permutation of a head's elements.

    Args:
        x: float `[B, heads, T, D]`.
        tables: result of `rotary_tables`.

    Returns:
        float `[B, heads, T, D]`.
    """
    cosine, sine = tables
    first, second = tf.split(x, 2, axis=-1)
    return x * cosine + tf.concat([second, first], -1) * sine


@keras.saving.register_keras_serializable("tfllm")
class LearnedPositions(ShapeShown, keras.layers.Layer):
    """Learned position embeddings, as in GPT-2.

    Args:
        max_length: number of positions.
        initializer: initializer of the table `[max_length, E]`. Defaults to "uniform".

    Call arguments:
        x: float `[B, T, E]`.
        positions: int `[T]` or `[B, T]`. Defaults to 0, 1, ...

    Returns:
        float `[1 or B, T, E]`, to be added to x.

    Examples:
        >>> positions = tfllm.layers.LearnedPositions(max_length=32)
        >>> positions(tf.ones([2, 5, 16])).shape
        TensorShape([1, 5, 16])
    """

    def __init__(self, max_length: int, *, initializer: Any = "uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1; received {max_length}")
        self.max_length = max_length
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Create the table."""
        self.table = self.add_weight(
            name="table", shape=(self.max_length, input_shape[-1]), initializer=self.initializer
        )
        self.built = True

    def call(self, x: tf.Tensor, positions: tf.Tensor | None = None) -> tf.Tensor:
        """Look up the positions' embeddings."""
        if positions is None and x.shape[1] is not None and x.shape[1] > self.max_length:
            raise ValueError(
                f"a sequence may have at most max_length={self.max_length} tokens; "
                f"received {x.shape[1]}. Give shorter rows or a longer table."
            )
        rows = tf.gather(tf.convert_to_tensor(self.table), _or_counted(positions, x))
        return rows[tf.newaxis] if rows.shape.rank == 2 else rows

    def compute_output_shape(self, input_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x, with one row if all rows have the same positions."""
        return (None, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable("tfllm")
class SinusoidalPositions(ShapeShown, keras.layers.Layer):
    """Sinusoidal position embeddings, which have no weights (Vaswani et al., 2017).

    Args:
        base: base of the frequencies. Defaults to 10000.

    Call arguments:
        x: float `[B, T, E]`.
        positions: int `[T]` or `[B, T]`. Defaults to 0, 1, ...

    Returns:
        float `[1 or B, T, E]`, to be added to x: the sines first, then the cosines.

    Examples:
        >>> positions = tfllm.layers.SinusoidalPositions()
        >>> positions(tf.ones([2, 5, 16])).shape
        TensorShape([1, 5, 16])
    """

    def __init__(self, *, base: float = 10000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.base = base

    def call(self, x: tf.Tensor, positions: tf.Tensor | None = None) -> tf.Tensor:
        """Compute the positions' embeddings."""
        dim = x.shape[-1]
        if dim % 2:
            raise ValueError(f"sinusoidal positions need an even width; received {dim}")
        positions = _or_counted(positions, x)
        if positions.shape.rank == 1:
            positions = positions[tf.newaxis]
        angle = tf.cast(positions, tf.float32)[..., tf.newaxis] * rotary_frequencies(dim, self.base)
        return tf.cast(tf.concat([tf.sin(angle), tf.cos(angle)], -1), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any, *others: Any, **more: Any) -> Any:
        """The shape of x, with one row if all rows have the same positions."""
        return (None, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "base": self.base}


def _or_counted(positions: tf.Tensor | None, x: tf.Tensor) -> tf.Tensor:
    if positions is not None:
        return tf.convert_to_tensor(positions)
    return tf.range(x.shape[1] if x.shape[1] is not None else tf.shape(x)[1])


def positions_in_segments(segment_ids: tf.Tensor) -> tf.Tensor:
    """The position of each token within its own segment.

    Args:
        segment_ids: int `[B, T]`; the tokens of a segment are contiguous.

    Returns:
        int32 `[B, T]`: `[[1, 1, 1, 2, 2]]` gives `[[0, 1, 2, 0, 1]]`.
    """
    batch, time = tf.unstack(tf.shape(segment_ids))
    changes = tf.cast(segment_ids[:, 1:] != segment_ids[:, :-1], tf.int32)
    # Number the segments of all rows, and find the index of each segment's first token.
    number = tf.concat([tf.zeros([batch, 1], tf.int32), tf.cumsum(changes, axis=1)], 1)[:, :time]
    number += (tf.range(batch) * time)[:, tf.newaxis]
    index = tf.broadcast_to(tf.range(time), [batch, time])
    starts = tf.math.unsorted_segment_min(index, number, batch * time)
    return tf.ensure_shape(index - tf.gather(starts, number), segment_ids.shape)
