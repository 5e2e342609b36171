"""Divide long texts into overlapping windows, in Python (training) and in a graph (serving).

A text of more than `room` tokens is divided into windows of `room` tokens, each starting
`room - overlap` tokens after the previous one; the last window ends at the end of the text. Every
token is *owned* by one window: the border between two windows is in the middle of their overlap, so
that an owned token has context on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

AT_ONCE = 32
"""number of windows in a batch, whatever the length of a text"""


class Window(NamedTuple):
    """Tokens `begin` to `end` of a text; those from `own_begin` to `own_end` are owned."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def windows_of(num_tokens: int, room: int, overlap: int) -> list[Window]:
    """The windows of a text; a single one, which may be empty, if all of it fits.

    Args:
        num_tokens: number of tokens of the text.
        room: maximum number of tokens in a window.
        overlap: number of tokens that neighbouring windows share, less than `room`.
    """
    step = room - overlap
    begins = [0]
    while begins[-1] + room < num_tokens:
        begins.append(min(begins[-1] + step, num_tokens - room))
    ends = [min(begin + room, num_tokens) for begin in begins]
    borders = [(begin + end) // 2 for begin, end in zip(begins[1:], ends, strict=False)]
    return [
        Window(*four)
        for four in zip(begins, ends, [0, *borders], [*borders, num_tokens], strict=True)
    ]


class Windows(NamedTuple):
    """The windows of several texts, in the order of the texts; each field int32 [W]."""

    rows: tf.Tensor
    """index of the text"""
    begins: tf.Tensor
    ends: tf.Tensor
    own_begins: tf.Tensor
    own_ends: tf.Tensor


def windows_in_graph(lengths: tf.Tensor, room: tf.Tensor, overlap: tf.Tensor) -> Windows:
    """The windows of several texts, as in `windows_of`.

    Args:
        lengths: number of tokens of each text, int32 [B].
        room: maximum number of tokens in a window, int32 [B].
        overlap: number of tokens that neighbouring windows share, int32 [B].
    """
    step = room - overlap
    beyond = tf.maximum(lengths - room, 0)
    counts = 1 + (beyond + step - 1) // step
    rows = tf.repeat(tf.range(tf.size(lengths)), counts)
    number = tf.range(tf.size(rows)) - tf.gather(tf.cumsum(counts, exclusive=True), rows)
    length, room, step, beyond, counts = (
        tf.gather(x, rows) for x in (lengths, room, step, beyond, counts)
    )

    def begin(number: tf.Tensor) -> tf.Tensor:
        return tf.minimum(number * step, beyond)

    def border(number: tf.Tensor) -> tf.Tensor:
        """The border between a window and the previous one."""
        return (begin(number) + begin(number - 1) + room) // 2

    return Windows(
        rows,
        begin(number),
        tf.minimum(begin(number) + room, length),
        tf.where(number == 0, 0, border(number)),
        tf.where(number == counts - 1, length, border(number + 1)),
    )


def tokens_of(windows: Windows, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
    """The tokens in each window, [W, (T)].

    Args:
        windows: windows of the texts.
        tokens: tokens of each text, or other values per token, [B, (N)].
    """
    first = tf.gather(tokens.row_splits[:-1], windows.rows)
    begins, ends = (first + tf.cast(x, tf.int64) for x in (windows.begins, windows.ends))
    places = tf.ragged.range(begins, ends)
    return places.with_values(tf.gather(tokens.flat_values, places.flat_values))


def in_chunks(
    function: Callable[..., Sequence[tf.Tensor]],
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.TensorSpec],
) -> list[tf.Tensor]:
    """Apply a function to windows in batches of `AT_ONCE`, to bound memory.

    Args:
        function: maps the inputs of windows to outputs; the first axis is that of windows.
        inputs: inputs, [W, ...] each.
        outputs: specs of the outputs for any number of windows.

    Returns:
        The outputs for all windows.
    """
    total = tf.shape(inputs[0])[0]
    arrays = [
        tf.TensorArray(spec.dtype, 0, dynamic_size=True, infer_shape=False) for spec in outputs
    ]

    def more(begin: tf.Tensor, number: tf.Tensor, *arrays: tf.TensorArray) -> tf.Tensor:
        return (begin < total) | (number == 0)

    def step(begin: tf.Tensor, number: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        found = function(*(x[begin : begin + AT_ONCE] for x in inputs))
        written = [a.write(number, x) for a, x in zip(arrays, found, strict=True)]
        return (begin + AT_ONCE, number + 1, *written)

    _, _, *arrays = tf.while_loop(more, step, (0, 0, *arrays), parallel_iterations=1)
    return [
        tf.ensure_shape(array.concat(), spec.shape)
        for array, spec in zip(arrays, outputs, strict=True)
    ]
