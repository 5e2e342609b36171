"""Marian's tokenizers inside a TensorFlow graph, using TF-Text's SentencePiece kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.added_tokens import AddedToken, stand_in_for_nul
from tfllm.tokenizers.graph.added_tokens_graph import (
    AddedTokenCuts,
    fingerprint,
    string_table,
    variable,
)
from tfllm.tokenizers.graph.ragged_rows import joined_rows, where_set
from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph
from tfllm.tokenizers.specification.split_pattern import UnsupportedTokenizer


class MarianGraph(TokenizerGraph):
    """One side's SentencePiece model, and the vocabulary that gives its pieces ids.

    Args:
        model: Content of the side's file.
        vocabulary: Id of each piece.
        token_bytes: See `TokenizerGraph`.
        added: Tokens at which texts are cut before the model sees them.
        end_token_id: Id that is added after a text.
        unknown_id: Id of pieces that are not in the vocabulary.
        language_code: Pattern of RE2 for the language code that a text may begin with.
    """

    def __init__(
        self,
        model: bytes,
        vocabulary: Mapping[str, int],
        token_bytes: Sequence[bytes],
        added: Sequence[AddedToken],
        *,
        end_token_id: int,
        unknown_id: int,
        language_code: str,
    ) -> None:
        super().__init__(token_bytes, [], [end_token_id], name="marian_graph")
        self._unknown, self._code = unknown_id, language_code
        special = {token.content for token in added}
        pieces = {piece: id_ for piece, id_ in vocabulary.items() if piece not in special}
        with tf.init_scope(), tf.device("/CPU:0"):
            # It returns strings rather than the model's own ids: what the model does not know as a
            # piece may be in the vocabulary.
            self._kernel = tf_text.SentencepieceTokenizer(model, out_type=tf.string)
            self._added = AddedTokenCuts(added, stand_in_for_nul(added, _refuse))
            strings = [piece.encode() for piece in pieces]
            self._pieces = variable(np.array(strings, object), "pieces", tf.string)
            self._ids = variable(np.array(list(pieces.values()), np.int32), "ids")
            self._table = string_table(strings, np.arange(len(strings)), "pieces")

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        segments = self._added.with_nul(segments, text)
        is_text = ids < 0
        segments = tf.where(is_text, segments, "")
        has_code = tf.strings.regex_full_match(segments, self._code + ".*")
        code = tf.strings.regex_replace(
            segments, rf"\A({self._code}).*\z", r"\1", replace_global=False
        )
        rest = tf.strings.regex_replace(segments, rf"\A{self._code}", "", replace_global=False)
        pieces = self._kernel.tokenize(tf.where(has_code, rest, segments))
        found = joined_rows(where_set(code, has_code), pieces)
        numbered = found.with_values(self._numbered(found.values))
        both = joined_rows(where_set(ids, ~is_text), numbered)
        return both.values, tf.gather(both.row_splits, row_segments)

    def _numbered(self, pieces: tf.Tensor) -> tf.Tensor:
        index = self._table.lookup(fingerprint(pieces))
        known = tf.maximum(index, 0)
        right = (index >= 0) & tf.equal(tf.gather(self._pieces, known), pieces)
        return tf.where(right, tf.gather(self._ids, known), self._unknown)

    def _joined(self, parts: tf.Tensor) -> tf.Tensor:
        return tf.strings.strip(tf.strings.reduce_join(parts, axis=1))


def _refuse(what: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(f"the in-graph tokenizer cannot do {what}")
