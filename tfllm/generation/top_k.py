"""Find the largest few of many numbers, faster than `tf.math.top_k`.

Shape letters: R rows, V numbers of a row (a vocabulary), N blocks of a row, W numbers of a block.
"""

from __future__ import annotations

import math

import tensorflow as tf


def top_k(values: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The k largest numbers of each row and their indices, exactly as in `tf.math.top_k`.

    The largest number of each block is found first, in a pass that uses the processor's vectors;
    the k largest of a row are in the k blocks with the largest of these, and only those are
    searched. Of equal numbers the first ones are taken. If one of them were in a block that is not
    chosen, each of
    the k blocks would have a number that is larger, or equal and before it: blocks with equal
        largest
    numbers are also taken from the first on, and stay in order.

    Args:
        values: float `[R, V]`, V static.
        k: Number of results, at least 1 and at most V.

    Returns:
        float `[R, k]`, largest first, and int32 `[R, k]`.
    """
    size = values.shape[-1]
    width = _block_width(size)
    num_blocks = -(-size // width)
    if num_blocks <= 2 * k:
        return tf.math.top_k(values, k)
    if num_blocks * width > size:
        padding = [[0, 0], [0, num_blocks * width - size]]
        values = tf.pad(values, padding, constant_values=-math.inf)
    blocks = tf.reshape(values, [-1, num_blocks, width])
    chosen = tf.sort(tf.math.top_k(tf.reduce_max(blocks, -1), k).indices)
    searched = tf.reshape(tf.gather(blocks, chosen, batch_dims=1), [-1, k * width])
    largest, place = tf.math.top_k(searched, k)
    return largest, tf.gather(chosen, place // width, batch_dims=1) * width + place % width


def _block_width(size: int) -> int:
    """About √V, and a divisor of V if there is one nearby; otherwise the last block is padded."""
    root = math.isqrt(size - 1) + 1
    return next((width for width in range(root, 2 * root) if size % width == 0), root)
