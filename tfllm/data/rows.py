"""The rows of a split as a `tf.data.Dataset` whose every batch is a function of (seed, step)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import numpy as np

from tfllm.data.order import RowOrder
from tfllm.data.packing import PackedRows, pack_rows
from tfllm.data.prepared import PreparedData
from tfllm.data.token_rows import TokenRows

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
) -> tf.data.Dataset:
    """Batches of packed rows: `({"token_ids", "segment_ids"}, labels, weights)`.

    All have the full shape [batch_size / shard count, sequence_length]; ids, segments and labels
    are int32, weights float32 (see `pack_rows`). The rows of epoch after epoch stand in one endless
    line, each epoch in an order drawn by (seed, epoch), and batch k takes the next `batch_size` of
    them: a batch may hold the end of one epoch and the start of the next, no row is left out, and
    nothing but k has to be known to go on from step k. The tokens behind the last full row of
    "train" are left out; those of "validation" make a shorter row, filled with weight 0.

    Args:
        data: what `prepare` wrote.
        split: "train" or "validation".
        sequence_length: tokens in a row.
        batch_size: rows in a batch, over all workers.
        seed: of the order of the rows.
        shuffle: False takes the rows in the order of the text.
        separate_documents: False is plain concatenation: one segment, every label counts.
        start_step: the first batch to make.
        repeat: False ends after one epoch, its last batch filled with rows of weight 0.
        num_batches: end after so many batches, counted from `start_step`.
        shard: (index, count): make this worker's rows of each batch only.

    Raises:
        ValueError: an argument is out of range, or the split is shorter than one row.
    """
    import tensorflow as tf

    rows = data.split(split)
    with_tail = split == "validation"
    num_rows = _check(rows, sequence_length, batch_size, start_step, num_batches, shard, with_tail)
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

    def element(step: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        parts = tf.numpy_function(
            batch, [step], [tf.int32, tf.int32, tf.int32, tf.float32], stateful=False
        )
        for part in parts:
            part.set_shape([local, sequence_length])
        token_ids, segment_ids, labels, weights = parts
        return {"token_ids": token_ids, "segment_ids": segment_ids}, labels, weights

    steps = _steps(num_rows, batch_size, start_step, repeat, num_batches)
    dataset = steps.map(element, num_parallel_calls=1, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    # The shards of the workers are cut here; TensorFlow's own would cut them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(4).with_options(options)


def steps_per_epoch(
    data: PreparedData, split: Literal["train", "validation"], sequence_length: int, batch_size: int
) -> int:
    """How many batches hold all rows of a split once (the last of them may not be full)."""
    rows = data.split(split)
    with_tail = split == "validation"
    num_rows = _check(rows, sequence_length, batch_size, 0, None, (0, 1), with_tail)
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
    rows: TokenRows,
    num_rows: int,
    sequence_length: int,
    batch_size: int,
    places: np.ndarray,
    seed: int | None,
    separate_documents: bool,
    repeat: bool,
) -> PackedRows:
    """This worker's part of batch `step`."""
    epochs, rows_of = np.divmod(int(step) * batch_size + places, num_rows)
    if seed is not None:
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows_of[here] = RowOrder(num_rows, seed, epoch)(rows_of[here])
    nothing = np.zeros(0, np.int32)  # becomes a row of weight 0
    tokens = [
        rows.row(row, sequence_length) if repeat or epoch == 0 else nothing
        for epoch, row in zip(epochs.tolist(), rows_of.tolist(), strict=True)
    ]
    return pack_rows(
        tokens,
        sequence_length,
        end_token_id=rows.end_token_id,
        separate_documents=separate_documents,
    )


def _check(
    rows: TokenRows,
    sequence_length: int,
    batch_size: int,
    start_step: int,
    num_batches: int | None,
    shard: tuple[int, int],
    with_tail: bool,
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
    num_rows = rows.num_rows(sequence_length, with_tail=with_tail)
    if num_rows == 0 and with_tail:
        raise ValueError(
            f"the validation split has {rows.num_tokens} tokens and so no row; prepare the text "
            "with a validation_fraction above 0 and at least two documents"
        )
    if num_rows == 0:
        raise ValueError(
            f"the {rows.split} split is shorter than one row: it has {rows.num_tokens} tokens, and "
            f"a row of sequence_length {sequence_length} takes {sequence_length + 1}; prepare more "
            f"text, or set sequence_length to at most {max(rows.num_tokens - 1, 1)}"
        )
    return num_rows
