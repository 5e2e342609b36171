"""Long texts in windows that overlap, alike in Python (training) and in a graph (serving).

A text of more tokens than there is room for is seen through windows of `room` tokens, each
`room - overlap` after the one before; the last ends where the text ends. Every token is *owned* by
one window: of two that overlap, the middle of what they share is the border, so that an owned token
has context on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

AT_ONCE = 32
"""windows that the model is given together, whatever the length of a text"""


class Window(NamedTuple):
    """Tokens `begin` to `end` of a text, of which those from `own_begin` to `own_end` are owned."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def windows_of(num_tokens: int, room: int, overlap: int) -> list[Window]:
    """The windows of a text; one, which may be empty, where there is room for all of it.

    Args:
        num_tokens: of the text.
        room: the most tokens of a window.
        overlap: tokens that neighbours share, less than `room`.
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
    """The windows of some texts, the first text's first; each field int32 [W]."""

    rows: tf.Tensor
    """of which text"""
    begins: tf.Tensor
    ends: tf.Tensor
    own_begins: tf.Tensor
    own_ends: tf.Tensor


def windows_in_graph(lengths: tf.Tensor, room: tf.Tensor, overlap: tf.Tensor) -> Windows:
    """As `windows_of`, of several texts.

    Args:
        lengths: int32 [B], tokens of each.
        room: int32 [B].
        overlap: int32 [B].
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
        """Between a window and the one before it."""
        return (begin(number) + begin(number - 1) + room) // 2

    return Windows(
        rows,
        begin(number),
        tf.minimum(begin(number) + room, length),
        tf.where(number == 0, 0, border(number)),
        tf.where(number == counts - 1, length, border(number + 1)),
    )


def tokens_of(windows: Windows, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
    """[W, (T)], the tokens in each window.

    Args:
        windows: of the texts.
        tokens: [B, (N)], those of each text, or anything else that each token has.
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
    """What `function` says of the windows, asked of `AT_ONCE` at a time: memory stays bounded.

    Args:
        function: some windows' inputs to outputs, all with the windows first.
        inputs: [W, ...] each.
        outputs: what they are, of any number of windows.
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
