"""Convert texts to the inputs of an encoder, in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from tfllm.tokenizers.graph.ragged_rows import equal_rows, first_of_rows, joined_rows

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer
    from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph


class EncoderInputs(NamedTuple):
    """Texts as inputs of an encoder."""

    inputs: dict[str, tf.Tensor]
    """`token_ids` and `token_type_ids` int32, `padding_mask` bool, all [B, T], T for the longest"""
    num_truncated: tf.Tensor
    """number of tokens that were cut off, int32 [B]"""


def encoder_inputs(
    tokenizer: Tokenizer,
    graph: TokenizerGraph,
    text: tf.Tensor,
    second_text: tf.Tensor | None,
    sequence_length: int,
) -> EncoderInputs:
    """Tokenize as [CLS] text [SEP] or [CLS] text [SEP] second_text [SEP], like `encoded_texts`.

    Args:
        tokenizer: tokenizer of the model.
        graph: its `graph()`.
        text: texts, string [B].
        second_text: second texts, string [B], or None.
        sequence_length: maximum number of tokens in a row.
    """
    first = graph.tokenize(text, add_special=False, parse_special=False)
    lengths = tf.cast(first.row_lengths(), tf.int32)
    if second_text is None:
        kept = tf.minimum(lengths, sequence_length - 2)
        rows = inputs_with_special_tokens(tokenizer, first_of_rows(first, kept))
        return EncoderInputs(rows, lengths - kept)
    second = graph.tokenize(second_text, add_special=False, parse_special=False)
    second_lengths = tf.cast(second.row_lengths(), tf.int32)
    room = sequence_length - 3
    kept = tf.minimum(lengths, tf.maximum(room - second_lengths, room - room // 2))
    second_kept = tf.minimum(second_lengths, room - kept)
    parts = first_of_rows(first, kept), first_of_rows(second, second_kept)
    rows = inputs_with_special_tokens(tokenizer, *parts)
    return EncoderInputs(rows, lengths - kept + second_lengths - second_kept)


def inputs_with_special_tokens(
    tokenizer: Tokenizer, *parts: tf.RaggedTensor
) -> dict[str, tf.Tensor]:
    """Join parts as [CLS] first [SEP], or [CLS] first [SEP] second [SEP].

    `tfllm.tasks.encoder.encoder_task.example_with_special_tokens` does the same in Python.

    Args:
        tokenizer: tokenizer of the model.
        parts: one or two parts, ids int32 [B, (T)].

    Returns:
        `token_ids`, `token_type_ids` (1 for the second part and its end) and `padding_mask`, as in
        `EncoderInputs`.
    """
    shown = [part.with_row_splits_dtype(tf.int64) for part in parts]
    begin, end = (
        equal_rows([tokenizer.special_id(name)], shown[0].nrows())
        for name in ("cls_token", "sep_token")
    )
    ids = joined_rows(begin, *(x for part in shown for x in (part, end)))
    token_ids = ids.to_tensor()
    places = tf.range(tf.shape(token_ids)[1])
    mask = places < tf.cast(ids.row_lengths(), tf.int32)[:, tf.newaxis]
    second_begin = tf.cast(shown[0].row_lengths(), tf.int32) + 2
    types = tf.cast(mask & (places >= second_begin[:, tf.newaxis]), tf.int32)
    return {"token_ids": token_ids, "token_type_ids": types, "padding_mask": mask}


def is_blank(text: tf.Tensor) -> tf.Tensor:
    """Whether texts contain only characters that give no token: bool, of the texts' shape.

    These are all spaces and control characters of Unicode, such as ideographic and zero-width
    spaces.
    """
    return tf.strings.regex_full_match(text, r"[\s\pZ\pC]*")


def blank_error(text: tf.Tensor, name: str = "text") -> tf.Tensor:
    """The output `error` for blank texts, which are refused; "" for the others."""
    return tf.where(is_blank(text), f"the {name} is empty", "")
