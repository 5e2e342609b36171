"""The rows of a split as a `tf.data.Dataset` whose every batch is a function of (seed, step)."""

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
    """Batches of rows: `({"token_ids", "segment_ids"}, labels, weights)`.

    All have the full shape [batch_size / shard count / parts, sequence_length]; ids, segments and
    labels are int32, weights float32. What a row is, the kind of data says: a stretch of the text
    (`TokenRows`), whole examples side by side (`ExampleRows`), a pair of replies, which makes the
    shapes [.., 2, sequence_length] (`PreferenceRows`), or an example of a task, as its definition
    batches it: of any names and shapes, and as wide as the batch needs (`TaskRows`).

    The rows of epoch after epoch stand in one endless line, each epoch in an order drawn by (seed,
    epoch), and batch k takes the next `batch_size` of them: a batch may hold the end of one epoch
    and the start of the next, no row is left out, and nothing but k has to be known to go on from
    step k.

    Args:
        data: what `prepare` wrote, of any kind.
        split: "train" or "validation".
        sequence_length: tokens in a row.
        batch_size: rows in a batch, over all workers.
        seed: of the order of the rows.
        shuffle: False takes the rows in the order of the text.
        separate_documents: False is plain concatenation: one segment, every label counts (text
            only).
        start_step: the first batch to make.
        repeat: False ends after one epoch, its last batch filled with rows of weight 0.
        num_batches: end after so many batches, counted from `start_step`.
        shard: (index, count): make this worker's rows of each batch only.
        parts: cut these into so many elements of the dataset, one for each of the worker's devices.

    Raises:
        ValueError: an argument is out of range, or the split has no row.
    """
    import tensorflow as tf

    rows = data.split(split)
    num_rows = _check(rows, sequence_length, batch_size, start_step, num_batches, shard)
    # Without rows, for the names, types and shapes.
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
            # An axis that is 0 long without rows is as long as a batch needs it.
            tensor.set_shape([local, *(size or None for size in array.shape[1:])])
        return tf.nest.pack_sequence_as(tuple(empty), tensors)

    steps = _steps(num_rows, batch_size, start_step, repeat, num_batches)
    dataset = steps.map(element, num_parallel_calls=1, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    # The shards of the workers are cut here; TensorFlow's own would cut them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if parts > 1:
        dataset = dataset.rebatch(local // parts, drop_remainder=True)
    return dataset.prefetch(4 * parts).with_options(options)


def steps_per_epoch(
    data: PreparedData, split: Literal["train", "validation"], sequence_length: int, batch_size: int
) -> int:
    """How many batches hold all rows of a split once (the last of them may not be full)."""
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
    """The number of rows, once the arguments are found to be in range."""
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
            f"({count}); received {batch_size}; {batch_size + count - batch_size % count} would do"
        )
    num_rows = rows.num_rows(sequence_length)
    if num_rows == 0:
        raise ValueError(rows.why_no_rows(sequence_length))
    return num_rows
