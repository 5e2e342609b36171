"""From texts to what an encoder takes, in a graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class EncoderInputs(NamedTuple):
    """Texts as an encoder takes them."""

    inputs: dict[str, tf.Tensor]
    """`token_ids` and `token_type_ids` int32, `padding_mask` bool, all [B, T]: T is the longest"""
    num_cut: tf.Tensor
    """int32 [B]: tokens that were cut off"""


def encoder_inputs(
    tokenizer: Any,
    graph: Any,
    text: tf.Tensor,
    second_text: tf.Tensor | None,
    sequence_length: int,
) -> EncoderInputs:
    """[CLS] text [SEP], or with a second text that and its [SEP] behind, as `encoded_texts` does.

    Args:
        tokenizer: of the model.
        graph: its `graph()`.
        text: string [B].
        second_text: string [B], or None.
        sequence_length: the most tokens of a row.
    """
    first = graph.tokenize(text, add_special=False, parse_special=False)
    lengths = tf.cast(first.row_lengths(), tf.int32)
    batch = tf.shape(text)[0]
    begin = tf.fill([batch, 1], tf.constant(tokenizer.cls_token_id, tf.int32))
    end = tf.fill([batch, 1], tf.constant(tokenizer.sep_token_id, tf.int32))
    if second_text is None:
        room = sequence_length - 2
        kept = tf.minimum(lengths, room)
        num_cut = lengths - kept
        ids = tf.concat([begin, first_tokens(first, kept), end], 1)
        second_begin = kept + 2
    else:
        second = graph.tokenize(second_text, add_special=False, parse_special=False)
        second_lengths = tf.cast(second.row_lengths(), tf.int32)
        room = sequence_length - 3
        most = tf.maximum(room - second_lengths, room - room // 2)
        kept = tf.minimum(lengths, most)
        second_kept = tf.minimum(second_lengths, room - kept)
        num_cut = lengths - kept + second_lengths - second_kept
        ids = tf.concat([begin, first_tokens(first, kept), end], 1)
        ids = tf.concat([ids, first_tokens(second, second_kept), end], 1)
        second_begin = kept + 2
    row_lengths = tf.cast(ids.row_lengths(), tf.int32)
    token_ids = ids.to_tensor()
    places = tf.range(tf.shape(token_ids)[1])
    mask = places < row_lengths[:, tf.newaxis]
    types = tf.cast(mask & (places >= second_begin[:, tf.newaxis]), tf.int32)
    inputs = {"token_ids": token_ids, "token_type_ids": types, "padding_mask": mask}
    return EncoderInputs(inputs, num_cut)


def is_blank(text: tf.Tensor) -> tf.Tensor:
    """Whether texts have nothing that a tokenizer could make a token of: bool, their shape.

    Space and control characters of all of Unicode, such as the space of Chinese and the one
    without width.
    """
    return tf.strings.regex_full_match(text, r"[\s\pZ\pC]*")


def first_tokens(ids: tf.RaggedTensor, numbers: tf.Tensor) -> tf.RaggedTensor:
    """The first tokens of each row.

    Args:
        ids: int32 [B, (T)].
        numbers: int32 [B]: how many, at most as many as there are.
    """
    places = tf.cast(tf.ragged.range(ids.row_lengths()).flat_values, tf.int32)
    limits = tf.repeat(numbers, tf.cast(ids.row_lengths(), tf.int32))
    kept = tf.boolean_mask(ids.flat_values, places < limits)
    return tf.RaggedTensor.from_row_lengths(kept, numbers, validate=False)
