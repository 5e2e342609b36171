"""From texts to what an encoder takes, in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer
    from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph


class EncoderInputs(NamedTuple):
    """Texts as an encoder takes them."""

    inputs: dict[str, tf.Tensor]
    """`token_ids` and `token_type_ids` int32, `padding_mask` bool, all [B, T]: T is the longest"""
    num_cut: tf.Tensor
    """int32 [B]: tokens that were cut off"""


def encoder_inputs(
    tokenizer: Tokenizer,
    graph: TokenizerGraph,
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
    if second_text is None:
        kept = tf.minimum(lengths, sequence_length - 2)
        rows = surrounded(tokenizer, first_tokens(first, kept))
        return EncoderInputs(rows, lengths - kept)
    second = graph.tokenize(second_text, add_special=False, parse_special=False)
    second_lengths = tf.cast(second.row_lengths(), tf.int32)
    room = sequence_length - 3
    kept = tf.minimum(lengths, tf.maximum(room - second_lengths, room - room // 2))
    second_kept = tf.minimum(second_lengths, room - kept)
    rows = surrounded(tokenizer, first_tokens(first, kept), first_tokens(second, second_kept))
    return EncoderInputs(rows, lengths - kept + second_lengths - second_kept)


def surrounded(tokenizer: Tokenizer, *parts: tf.RaggedTensor) -> dict[str, tf.Tensor]:
    """[CLS] first part [SEP], or with a second part that and its [SEP] behind.

    `tfllm.tasks.encoder.encoder_task.surrounded_ids` does the same in Python.

    Args:
        tokenizer: of the model.
        parts: one or two, ids int32 [B, (T)].

    Returns:
        `token_ids`, `token_type_ids` (1 for the second part and its end) and `padding_mask`, as of
        `EncoderInputs`.
    """
    shown = [part.with_row_splits_dtype(tf.int64) for part in parts]
    batch = tf.cast(shown[0].nrows(), tf.int32)
    begin, end = (
        tf.fill([batch, 1], tf.constant(id_, tf.int32))
        for id_ in map(tokenizer.special_id, ("cls_token", "sep_token"))
    )
    ids = tf.concat([begin, *(x for part in shown for x in (part, end))], 1)
    token_ids = ids.to_tensor()
    places = tf.range(tf.shape(token_ids)[1])
    mask = places < tf.cast(ids.row_lengths(), tf.int32)[:, tf.newaxis]
    second_begin = tf.cast(shown[0].row_lengths(), tf.int32) + 2
    types = tf.cast(mask & (places >= second_begin[:, tf.newaxis]), tf.int32)
    return {"token_ids": token_ids, "token_type_ids": types, "padding_mask": mask}


def is_blank(text: tf.Tensor) -> tf.Tensor:
    """Whether texts have nothing that a tokenizer could make a token of: bool, their shape.

    Space and control characters of all of Unicode, such as the space of Chinese and the one
    without width.
    """
    return tf.strings.regex_full_match(text, r"[\s\pZ\pC]*")


def blank_error(text: tf.Tensor, name: str = "text") -> tf.Tensor:
    """The `error` of blank texts, which are refused; "" of the others."""
    return tf.where(is_blank(text), f"the {name} is empty", "")


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
