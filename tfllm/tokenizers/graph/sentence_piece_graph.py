"""SentencePiece inside a TensorFlow graph, using TF-Text's kernel."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.added_tokens import AddedToken, stand_in_for_nul
from tfllm.tokenizers.graph.added_tokens_graph import AddedTokenCuts
from tfllm.tokenizers.graph.ragged_rows import joined_rows, where_set
from tfllm.tokenizers.graph.spaced_text_graph import SpacedTextGraph, with_space
from tfllm.tokenizers.leading_space import LeadingSpace
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer


class SentencePieceGraph(SpacedTextGraph):
    """A SentencePiece model in a graph.

    With a Unigram model, two ways to cut a text may have scores that differ only in the last bits
    of a float32; then the kernel and the library `sentencepiece`, which add in different orders,
    may choose differently. BPE has no such choice.

    Args:
        model: Content of a tokenizer.model. A SavedModel holds it once, as an attribute of the op
            that creates the kernel's resource.
        token_bytes, begin, end: See `TokenizerGraph`.
        added: Tokens at which texts are cut before the model sees them.
        leading: Which spaces at the start of a text are removed.
        spaces_first: Whether to put a space before the first stretch of a text if it does not begin
            with one. Defaults to False.
        other_space: Characters that count as spaces. Defaults to none.
    """

    def __init__(
        self,
        model: bytes,
        token_bytes: Sequence[bytes],
        added: Sequence[AddedToken],
        begin: Sequence[int],
        end: Sequence[int],
        leading: LeadingSpace,
        *,
        spaces_first: bool = False,
        other_space: str = "",
    ) -> None:
        super().__init__(token_bytes, begin, end, name="sentence_piece_graph")
        self._leading, self._spaces_first = leading, spaces_first
        self._other_space = other_space
        with tf.init_scope(), tf.device("/CPU:0"):
            self._kernel = tf_text.SentencepieceTokenizer(model)
            self._added = AddedTokenCuts(added, stand_in_for_nul(added, _refuse))

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        segments = self._added.with_nul(segments, text)
        is_text = ids < 0
        if self._spaces_first:
            segments = with_space(segments, row_segments, " ", first=True)
        if self._other_space:
            segments = tf.strings.regex_replace(segments, f"[{self._other_space}]", " ")
        encoded = self._kernel.tokenize(tf.where(is_text, segments, ""))
        both = joined_rows(where_set(ids, ~is_text), encoded)
        return both.values, tf.gather(both.row_splits, row_segments)


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(f"the in-graph tokenizer cannot do {what}")
