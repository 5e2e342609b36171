"""Check the requests to a served model, and neutralize rows that cannot be answered.

Rows of several callers are batched; an invalid one gets its own `error`, and the others continue.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfllm.config.generation import NO_LIMIT, option_rows
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import MOST_STOP_BYTES
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopStrings
from tfllm.tokenizers.graph.ragged_rows import first_of_rows, joined_rows, where_set


class Request(NamedTuple):
    """The input of the decoding loop. Rows with an error have a prompt of one token and limit 0."""

    prompts: tf.RaggedTensor
    """int32 `[B, (P)]`, each with at least one token"""
    limits: tf.Tensor
    """int32 `[B]`: maximum number of new tokens"""
    options: SamplingOptions
    stops: StopStrings
    error: tf.Tensor
    """string `[B]`: error of the row, or empty"""
    prompt_tokens: tf.Tensor
    """int32 `[B]`: number of tokens of the prompt, even if it is too long"""


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
        options: Tensors of shape `[B]` by name, as in `OPTION_TYPES`.
        context: Maximum number of tokens of the model.
        start_id: int32 scalar, the token that replaces an empty prompt.
        max_length: Maximum number of tokens of a prompt and its text if `max_new_tokens` is
            `NO_LIMIT`. Defaults to 0, for no such limit.
        refused: string `[B]`, the known error of a row, or empty. Defaults to none.
    """
    # An empty prompt begins a document, after the token that ended the previous one.
    prompts = prompts.with_row_splits_dtype(tf.int64)
    is_empty = prompts.row_lengths() == 0
    prompts = joined_rows(where_set(tf.fill(tf.shape(is_empty), start_id), is_empty), prompts)
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
        # A prompt with an error must not determine the width at which others are computed.
        prompts=first_of_rows(prompts, tf.where(bad, 1, lengths)),
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


def row_errors(lengths: tf.Tensor, options: dict[str, tf.Tensor], context: int) -> tf.Tensor:
    """The error of each row.

    Args:
        lengths: int32 `[B]`, the number of tokens of each prompt.
        options: Tensors of shape `[B]` by name.
        context: Maximum number of tokens of the model.

    Returns:
        string `[B]`, empty for valid rows.
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
