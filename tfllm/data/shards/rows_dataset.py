"""The rows of a split as a `tf.data.Dataset`, in which (seed, step) determines each batch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import numpy as np

from tfllm.data.shards.order import RowOrder
from tfllm.data.shards.prepared_data import PreparedData
from tfllm.data.shards.splits import NO_ROW, RowBatch, Split

if TYPE_CHECKING:
    import tensorflow as tf


def rows_dataset(
    data: PreparedData,
    split: Literal["train", "validation"],
    *,
    sequence_length: int,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    separate_documents: bool = True,
    start_step: int = 0,
    repeat: bool = True,
    num_batches: int | None = None,
    shard: tuple[int, int] = (0, 1),
    parts: int = 1,
) -> tf.data.Dataset:
    """Dataset of batches of rows: `({"token_ids", "segment_ids"}, labels, weights)`.

    All arrays have the full shape [batch_size / shard count / parts, sequence_length]; ids,
    segments and labels are int32, weights float32. The kind of data determines what a row is: a
    piece of the text (`TokenRows`), several whole examples (`ExampleRows`), a pair of replies, with
    shapes [.., 2, sequence_length] (`PreferenceRows`), or an example of a task, with names, shapes
    and a width that the task determines for each batch (`TaskRows`).

    The rows of all epochs form one infinite sequence, in which (seed, epoch) determines the order
    of each epoch, and batch k takes the next `batch_size` of them. A batch may contain the end of
    one epoch and the start of the next, no row is left out, and a run can be resumed at step k
    without any further state.

    Args:
        data: prepared data of any kind.
        split: "train" or "validation".
        sequence_length: tokens in a row.
        batch_size: rows in a batch, over all workers.
        seed: seed of the order of the rows. Defaults to 0.
        shuffle: whether to shuffle the rows; False keeps the order of the files. Defaults to True.
        separate_documents: whether each document is its own segment; False, which is supported for
            text only, concatenates documents. Defaults to True.
        start_step: first batch to make. Defaults to 0.
        repeat: whether to repeat infinitely; False ends after one epoch, whose last batch is padded
            with rows of weight 0. Defaults to True.
        num_batches: number of batches from `start_step` on. Defaults to no limit.
        shard: (index, count): make only the rows of worker `index` of `count` in each batch.
        parts: number of elements of the dataset that these rows are split into, one for each device
            of the worker. Defaults to 1.

    Raises:
        ValueError: an argument is out of range, or the split has no row.
    """
    import tensorflow as tf

    rows = data.split(split)
    num_rows = _check(rows, sequence_length, batch_size, start_step, num_batches, shard)
    # An empty batch gives the names, dtypes and shapes.
    empty = rows.batch([], sequence_length, separate_documents=separate_documents)
    arrays = tf.nest.flatten(tuple(empty))
    index, count = shard
    local = batch_size // count
    batch = functools.partial(
        _batch,
        rows=rows,
        num_rows=num_rows,
        sequence_length=sequence_length,
        batch_size=batch_size,
        places=np.arange(index * local, (index + 1) * local),
        seed=seed if shuffle else None,
        separate_documents=separate_documents,
        repeat=repeat,
    )

    def flat(step: np.ndarray) -> list[np.ndarray]:
        return tf.nest.flatten(tuple(batch(step)))

    def element(step: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        tensors = tf.numpy_function(flat, [step], [a.dtype for a in arrays], stateful=False)
        for tensor, array in zip(tensors, arrays, strict=True):
            # An axis of size 0 in the empty batch has a size that varies between batches.
            tensor.set_shape([local, *(size or None for size in array.shape[1:])])
        return tf.nest.pack_sequence_as(tuple(empty), tensors)

    steps = _steps(num_rows, batch_size, start_step, repeat, num_batches)
    dataset = steps.map(element, num_parallel_calls=1, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    # The rows are divided among the workers here; TensorFlow must not divide them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if parts > 1:
        dataset = dataset.rebatch(local // parts, drop_remainder=True)
    return dataset.prefetch(4 * parts).with_options(options)


def steps_per_epoch(
    data: PreparedData, split: Literal["train", "validation"], sequence_length: int, batch_size: int
) -> int:
    """Number of batches that contain all rows of a split once; the last may not be full."""
    num_rows = _check(data.split(split), sequence_length, batch_size, 0, None, (0, 1))
    return -(-num_rows // batch_size)


def _steps(
    num_rows: int, batch_size: int, start_step: int, repeat: bool, num_batches: int | None
) -> tf.data.Dataset:
    import tensorflow as tf

    if repeat and num_batches is None:
        return tf.data.Dataset.counter(start_step)
    end = None if num_batches is None else start_step + num_batches
    if not repeat:
        epoch = -(-num_rows // batch_size)
        end = epoch if end is None else min(end, epoch)
    return tf.data.Dataset.range(start_step, max(start_step, end or 0))


def _batch(
    step: np.ndarray,
    *,
    rows: Split,
    num_rows: int,
    sequence_length: int,
    batch_size: int,
    places: np.ndarray,
    seed: int | None,
    separate_documents: bool,
    repeat: bool,
) -> RowBatch:
    """This worker's part of batch `step`."""
    epochs, rows_of = np.divmod(int(step) * batch_size + places, num_rows)
    if seed is not None:
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows_of[here] = RowOrder(num_rows, seed, epoch)(rows_of[here])
    if not repeat:
        rows_of[epochs > 0] = NO_ROW
    return rows.batch(rows_of.tolist(), sequence_length, separate_documents=separate_documents)


def _check(
    rows: Split,
    sequence_length: int,
    batch_size: int,
    start_step: int,
    num_batches: int | None,
    shard: tuple[int, int],
) -> int:
    """Check the arguments of `rows_dataset`; returns the number of rows."""
    index, count = shard
    for name, value, least in (
        ("sequence_length", sequence_length, 1),
        ("batch_size", batch_size, 1),
        ("start_step", start_step, 0),
        ("num_batches", 1 if num_batches is None else num_batches, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; received {value}")
    if not 0 <= index < count:
        raise ValueError(f"shard must be (index, count) with 0 <= index < count; received {shard}")
    if batch_size % count:
        raise ValueError(
            f"batch_size counts the rows of all workers and must be divisible by their number "
            f"({count}); received {batch_size}; try {batch_size + count - batch_size % count}"
        )
    num_rows = rows.num_rows(sequence_length)
    if num_rows == 0:
        raise ValueError(rows.why_no_rows(sequence_length))
    return num_rows
