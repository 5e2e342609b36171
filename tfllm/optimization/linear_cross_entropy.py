"""Output projection and cross-entropy in one function, a chunk of rows at a time.

With a real vocabulary the logits are the largest tensor of a training step: 8 x 512 tokens and
49,152 classes take 0.8 GB in float32, and a stock loss holds several copies. Here the logits of a
chunk are turned into its part of the loss and of both gradients at once, and then freed; the
arithmetic is that of the full computation.

Shape letters: R rows (tokens), E width, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

# Size of the float32 logits of a chunk. Larger chunks are no faster; smaller ones accumulate the
# kernel's gradient more often.
_CHUNK_BYTES = 48 * 2**20

_NONE, _OF_HIDDEN, _BOTH = range(3)
"""which gradients are computed"""


def linear_cross_entropy(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    *,
    with_gradient: bool = True,
    with_kernel_gradient: bool = True,
    chunk_rows: int | None = None,
) -> tf.Tensor:
    """Sum over rows of weight · cross-entropy(softmax(hidden kernelᵀ), label).

    Products run in the dtype of `hidden`; logits, softmax and loss are float32.

    Args:
        hidden: float `[R, E]`.
        kernel: `[V, E]`, of the same dtype.
        labels: int `[R]`, in [0, V).
        weights: float `[R]`; rows of weight 0 are ignored.
        with_gradient: whether to compute gradients; false if none will be needed.
        with_kernel_gradient: whether to compute the kernel's gradient; false if it is frozen, which
            saves a third of the products and a float32 matrix of its size.
        chunk_rows: maximum number of rows computed at once. Defaults to as many as have 48 MiB of
            logits.

    Returns:
        float32 scalar.
    """
    vocab_size = kernel.shape[0]
    labels = tf.cast(labels, tf.int32)
    weights = tf.cast(weights, tf.float32)
    if chunk_rows is None:
        chunk_rows = _rows_in_a_chunk(vocab_size)
    num_rows = hidden.shape[0]
    whole = num_rows is not None and num_rows <= chunk_rows

    compute: Any = functools.partial(_loop, chunk_rows=chunk_rows)
    if whole:
        compute = _chunk
    data = (labels, weights)

    @tf.custom_gradient
    def loss_of_both(hidden: tf.Tensor, kernel: tf.Tensor):
        loss, d_hidden, d_kernel = compute(hidden, kernel, *data, _BOTH)

        def gradient(upstream: tf.Tensor):
            return (
                d_hidden * tf.cast(upstream, d_hidden.dtype),
                tf.cast(d_kernel * tf.cast(upstream, d_kernel.dtype), kernel.dtype),
            )

        return loss, gradient

    @tf.custom_gradient
    def loss_of_hidden(hidden: tf.Tensor):
        loss, d_hidden, _ = compute(hidden, kernel, *data, _OF_HIDDEN)
        return loss, lambda upstream: d_hidden * tf.cast(upstream, d_hidden.dtype)

    if not with_gradient:
        return compute(hidden, kernel, *data, _NONE)[0]
    return loss_of_both(hidden, kernel) if with_kernel_gradient else loss_of_hidden(hidden)


def token_losses(
    hidden: tf.Tensor, kernel: tf.Tensor, labels: tf.Tensor, *, chunk_rows: int | None = None
) -> tf.Tensor:
    """Cross-entropy of each row: `linear_cross_entropy` without the sum and the gradient.

    Args:
        hidden: float `[R, E]`.
        kernel: `[V, E]`, of the same dtype.
        labels: int `[R]`, in [0, V).
        chunk_rows: as for `linear_cross_entropy`.

    Returns:
        float32 `[R]`.
    """
    vocab_size = kernel.shape[0]
    chunk_rows = chunk_rows or _rows_in_a_chunk(vocab_size)
    num_rows = tf.shape(hidden)[0]
    num_chunks = -(-num_rows // chunk_rows)
    pieces = tf.TensorArray(tf.float32, num_chunks, infer_shape=False, element_shape=[None])

    def body(i: tf.Tensor, pieces: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        rows = slice(i * chunk_rows, (i + 1) * chunk_rows)
        logits = tf.cast(tf.matmul(hidden[rows], kernel, transpose_b=True), tf.float32)
        of_label = tf.gather(logits, labels[rows], axis=1, batch_dims=1)
        return i + 1, pieces.write(i, tf.reduce_logsumexp(logits, axis=-1) - of_label)

    _, pieces = tf.while_loop(
        lambda i, _: i < num_chunks, body, (tf.constant(0), pieces), parallel_iterations=1
    )
    return pieces.concat()


def _rows_in_a_chunk(vocab_size: int) -> int:
    return max(64, _CHUNK_BYTES // (4 * vocab_size) // 64 * 64)


def _chunk(
    hidden: tf.Tensor, kernel: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, gradients: int
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Sum of the losses of a chunk, and its gradients with respect to hidden and kernel."""

    def logits() -> tf.Tensor:
        return tf.cast(tf.matmul(hidden, kernel, transpose_b=True), tf.float32)

    def exact() -> tf.Tensor:  # computes the logits again, so that none are kept for it
        again = logits()
        return tf.reduce_logsumexp(again, axis=-1) - tf.gather_nd(again, place)

    probabilities = tf.nn.softmax(logits())
    place = tf.stack([tf.range(tf.shape(labels)[0]), labels], axis=1)
    of_label = tf.gather_nd(probabilities, place)
    # -log p is exact while p is within float32's range; otherwise the loss is computed again.
    losses = tf.cond(
        tf.reduce_min(of_label) > 1e-30,
        lambda: -tf.math.log(of_label),
        exact,
    )
    loss = tf.reduce_sum(tf.math.multiply_no_nan(losses, weights))
    if gradients == _NONE:
        return loss, None, None
    # d loss / d logits = weight · (p - one-hot). The weight is applied to the small factors instead
    # of to this [rows, V] tensor, which is updated in place, since nothing else reads it any more.
    with tf.control_dependencies([of_label]):
        d_logits = tf.tensor_scatter_nd_update(
            tf.cast(probabilities, hidden.dtype), place, tf.cast(of_label - 1, hidden.dtype)
        )
    row_weight = tf.cast(weights, hidden.dtype)[:, tf.newaxis]
    d_hidden = tf.matmul(d_logits, kernel) * row_weight
    if gradients == _OF_HIDDEN:
        return loss, d_hidden, None
    if hidden.dtype == tf.float16:  # a sum over many rows could overflow, a mean underflow
        root = tf.sqrt(tf.cast(tf.maximum(tf.shape(hidden)[0], 1), tf.float32))
        row_weight /= tf.cast(root, tf.float16)
        d_kernel = tf.matmul(d_logits, hidden * row_weight, transpose_a=True)
        return loss, d_hidden, tf.cast(d_kernel, tf.float32) * root
    d_kernel = tf.matmul(d_logits, hidden * row_weight, transpose_a=True)
    return loss, d_hidden, d_kernel


def _loop(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    gradients: int,
    *,
    chunk_rows: int,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """The same over chunks of equal size; the last one is padded with rows of weight 0."""
    num_rows, width = hidden.shape[0], hidden.shape[1]
    if num_rows is None:
        num_rows = tf.shape(hidden)[0]
        num_chunks = tf.maximum(1, -(-num_rows // chunk_rows))
    else:
        num_chunks = max(1, -(-num_rows // chunk_rows))
    chunk_rows = -(-num_rows // num_chunks)  # so that no chunk is mostly padding
    missing = num_chunks * chunk_rows - num_rows

    def chunked(x: tf.Tensor) -> tf.Tensor:
        x = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.reshape(x, [num_chunks, chunk_rows, *x.shape[1:]])

    chunks = [chunked(x) for x in (hidden, labels, weights)]

    def body(i: tf.Tensor, loss: tf.Tensor, *rest: Any):
        h, y, w = (x[i] for x in chunks)
        chunk_loss, d_hidden, d_kernel = _chunk(h, kernel, y, w, gradients)
        state: tuple = (i + 1, loss + chunk_loss)
        if gradients != _NONE:
            state += (rest[0].write(i, d_hidden),)
        if gradients == _BOTH:
            state += (rest[1] + tf.cast(d_kernel, tf.float32),)
        return state

    state: tuple = (tf.constant(0), tf.constant(0.0))
    if gradients != _NONE:
        static_rows = chunk_rows if isinstance(chunk_rows, int) else None
        element_shape = [static_rows, width]
        state += (tf.TensorArray(hidden.dtype, num_chunks, element_shape=element_shape),)
    if gradients == _BOTH:
        state += (tf.zeros(kernel.shape, tf.float32),)
    state = tf.while_loop(lambda i, *_: i < num_chunks, body, state, parallel_iterations=1)
    d_hidden = d_kernel = None
    if gradients != _NONE:
        d_hidden = tf.reshape(state[2].stack(), [-1, width])[:num_rows]
    if gradients == _BOTH:
        d_kernel = state[3] if kernel.dtype == tf.float16 else tf.cast(state[3], kernel.dtype)
    return state[1], d_hidden, d_kernel
