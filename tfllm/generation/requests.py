"""Requests as a served model gets them: which rows cannot be answered, and how they are disarmed.

Rows of several callers are batched; a bad one gets an `error` of its own and the others go on.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.config.generation import NO_LIMIT, option_rows
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import MOST_STOP_BYTES
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopStrings


class Request(NamedTuple):
    """What the decoding loop takes. Rows with an error have a prompt of one token and limit 0."""

    prompts: tf.RaggedTensor
    """int32 `[B, (P)]`, each with at least one token"""
    limits: tf.Tensor
    """int32 `[B]`: the most new tokens"""
    options: SamplingOptions
    stops: StopStrings
    error: tf.Tensor
    """string `[B]`: what is wrong with the row, or empty"""
    prompt_tokens: tf.Tensor
    """int32 `[B]`: tokens of the prompt, also where it is too long"""


def read_request(
    prompts: tf.RaggedTensor,
    options: dict[str, tf.Tensor],
    *,
    context: int,
    start_id: tf.Tensor,
    max_length: int = 0,
    refused: tf.Tensor | None = None,
) -> Request:
    """Check every row.

    Args:
        prompts: int32 `[B, (P)]`.
        options: name to `[B]`, as `OPTION_TYPES` has them.
        context: the most tokens that the model takes.
        start_id: int32 scalar: what an empty prompt begins with.
        max_length: the most tokens of a prompt and its text, where `max_new_tokens` is `NO_LIMIT`;
            0: there is no such limit.
        refused: string `[B]`: what is known to be wrong with a row, or empty.
    """
    # An empty prompt begins a document: behind the token that ended the one before.
    starts = tf.cast(prompts.row_lengths() == 0, tf.int64)
    first = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(starts)], start_id), starts)
    prompts = tf.concat([first, prompts], axis=1)
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    error = row_errors(lengths, options, context)
    limits = options["max_new_tokens"]
    if max_length:
        limits = tf.where(limits == NO_LIMIT, max_length - lengths, limits)
        too_long = tf.strings.join(
            [
                f"the prompt must be shorter than max_length ({max_length}) unless max_new_tokens "
                "is given; it has ",
                tf.strings.as_string(lengths),
            ]
        )
        error = tf.where((error == "") & (limits < 1), too_long, error)
    if refused is not None:
        error = tf.where(refused == "", error, refused)
    bad = error != ""
    rows = option_rows()
    return Request(
        # The others shall not be computed at the width of a prompt that is not.
        prompts=shortened(prompts, tf.where(bad, 1, lengths), context),
        limits=tf.where(bad, 0, limits),
        options=SamplingOptions(
            **{
                name: tf.where(bad, tf.constant(rows[name].neutral, dtype), options[name])
                for name, dtype in OPTION_DTYPES.items()
                if name in SamplingOptions._fields
            }
        ),
        stops=StopStrings(tf.where(bad, "", options["stop"])),
        error=error,
        prompt_tokens=lengths,
    )


def shortened(ids: tf.RaggedTensor, lengths: tf.Tensor, most: int) -> tf.RaggedTensor:
    """The first `lengths` ids of each row; `most` is at least every length that is kept."""
    return tf.RaggedTensor.from_tensor(ids[:, :most].to_tensor(), tf.cast(lengths, tf.int64))


def row_errors(lengths: tf.Tensor, options: dict[str, tf.Tensor], context: int) -> tf.Tensor:
    """What is wrong with each row.

    Args:
        lengths: int32 `[B]`: tokens of each prompt.
        options: name to `[B]`.
        context: the most tokens that the model takes.

    Returns:
        string `[B]`, empty where nothing is.
    """
    stop_bytes = tf.strings.length(options["stop"])
    rules = [
        (
            lengths < context,
            f"the prompt must be shorter than the model's context of {context} tokens; it has ",
            lengths,
        ),
        *(
            (
                row.interval.holds(options[name]),
                f"{name} {row.interval.rule}; received ",
                options[name],
            )
            for name, row in option_rows().items()
            if row.dtype is not None and row.interval is not None
        ),
        (
            stop_bytes <= MOST_STOP_BYTES,
            f"stop must have at most {MOST_STOP_BYTES} bytes, all strings together; it has ",
            stop_bytes,
        ),
    ]
    error = tf.fill(tf.shape(lengths), "")
    for holds, rule, value in reversed(rules):
        error = tf.where(holds, error, tf.strings.join([rule, tf.strings.as_string(value)]))
    return error
