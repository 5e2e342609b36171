"""Character-level BPE inside a TensorFlow graph, with the ids of the `tokenizers` library, for a
tokenizer.json that was converted from a SentencePiece model.

SentencePiece's own kernel joins the pieces with the best score, and the library the pairs with the
earliest merge; the two may differ if a piece can be joined in two ways. So the merges are applied
here in the library's way.

Shapes in this file: B texts, S stretches between added tokens, C characters, P pieces whose borders
no merge crosses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.added_tokens_graph import (
    AddedTokenCuts,
    fingerprint,
    string_table,
    variable,
)
from tfllm.tokenizers.graph.frozen_table import FrozenTable
from tfllm.tokenizers.graph.merge_loop import MergeLoop
from tfllm.tokenizers.graph.spaced_text_graph import SpacedTextGraph, with_space
from tfllm.tokenizers.graph.tokenizer_graph import utf8_length
from tfllm.tokenizers.leading_space import SPACE, LeadingSpace
from tfllm.tokenizers.specification.metaspace_specification import MetaspaceSpecification, Prepend


class MetaspaceGraph(SpacedTextGraph):
    """BPE over characters inside a graph."""

    def __init__(
        self,
        specification: MetaspaceSpecification,
        token_bytes: Sequence[bytes],
        leading: LeadingSpace,
    ) -> None:
        spec = specification
        super().__init__(token_bytes, spec.begin, spec.end, name="metaspace_graph")
        self._leading = leading
        self._normalizers, self._spaces = list(spec.normalizers), spec.spaces
        self._falls_back, self._unknown = len(spec.byte_ids) > 0, spec.unknown
        self._any_words = len(spec.words) > 0
        tokens = [t.encode() for t in spec.tokens]
        with tf.init_scope(), tf.device("/CPU:0"):
            normalize = self._normalize if spec.normalizers else None
            self._added = AddedTokenCuts(spec.added, spec.stand_in, normalize)
            self._strings = variable(np.array(tokens, object), "tokens", tf.string)
            self._whole = string_table([tokens[i] for i in spec.whole], spec.whole, "whole")
            if self._any_words:
                self._words = string_table([tokens[i] for i in spec.words], spec.words, "words")
            points = np.array([ord(c) for c in spec.characters], np.int64)
            ids = np.array(list(spec.characters.values()), np.int32)
            self._characters = FrozenTable(points, ids, -1, "characters")
            pairs = (spec.neighbours[:, 0] << 32) | spec.neighbours[:, 1]
            self._neighbours = FrozenTable(pairs, np.ones(len(pairs), np.int32), 0, "neighbours")
            self._byte_ids = variable(spec.byte_ids, "byte_ids")
            lengths = np.array([len(token) for token in spec.tokens])
            self._merges = MergeLoop(
                spec.merge_pairs, spec.merge_results, spec.merge_unsafe, lengths
            )

    def _normalize(self, text: tf.Tensor) -> tf.Tensor:
        for step in self._normalizers:
            if isinstance(step, Prepend):
                text = tf.where(tf.strings.length(text) > 0, step.text + text, text)
            else:
                text = tf.strings.regex_replace(text, step.pattern, step.text)
        return text

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        stretches, rows = segments, row_segments
        is_text = ids < 0
        if self._spaces is not None:
            spaced = self._with_spaces(stretches, rows)
            stretches = tf.where(is_text, spaced, stretches)
        decoded = tf.strings.unicode_decode(stretches, "UTF-8")
        characters = self._added.restore_nul(decoded.values, text)
        return self._ids(characters, decoded.row_splits, ids, rows)

    def _with_spaces(self, stretches: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        assert self._spaces is not None
        spaced = tf.strings.regex_replace(stretches, " ", SPACE)
        if self._spaces.prepend == "never":
            return spaced
        return with_space(spaced, rows, SPACE, first=self._spaces.prepend == "first")

    def _ids(
        self, characters: tf.Tensor, splits: tf.Tensor, added: tf.Tensor, rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode stretches.

        Args:
            characters: int32 [C].
            splits: int64 [S + 1], where each stretch's characters start and end.
            added: int32 [S], the id of a stretch that is an added token, else -1.
            rows: int64 [B + 1], where each text's stretches start and end.

        Returns:
            int32 [tokens], and int64 [B + 1], where each text's tokens start and end. Tokens are
            ordered by the position of their first byte.
        """
        stretch = tf.repeat(tf.range(tf.size(added)), splits[1:] - splits[:-1])
        is_added = tf.gather(added, stretch) >= 0
        one = tf.minimum(tf.size(characters), 1)
        first = tf.fill([one], True)
        word_starts = tf.concat([first, stretch[1:] != stretch[:-1]], 0)
        if self._spaces is not None and self._spaces.split:
            word_starts |= ~is_added & tf.equal(characters, ord(SPACE))
        points = tf.cast(characters, tf.int64)
        pair = tf.bitwise.left_shift(points[:-1], tf.constant(32, tf.int64)) + points[1:]
        apart = tf.equal(self._neighbours.lookup(pair), 0) & ~is_added[1:]
        piece_starts = word_starts | tf.concat([first, apart], 0)

        piece = tf.cumsum(tf.cast(piece_starts, tf.int32)) - 1
        begins = tf.where(piece_starts)[:, 0]
        piece_splits = tf.concat([begins, [tf.size(characters, tf.int64)]], 0)
        pieces = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(characters, piece_splits, validate=False), "UTF-8"
        )
        known = self._known(pieces, tf.gather(word_starts, begins))
        piece_added = tf.gather(added, tf.gather(stretch, begins))
        known = tf.where(piece_added >= 0, piece_added, known)

        lengths = tf.strings.length(pieces)
        ends = tf.cumsum(lengths)
        by_byte = tf.tensor_scatter_nd_update(
            tf.fill([tf.reduce_sum(lengths)], -1),
            tf.boolean_mask(ends - lengths, known >= 0)[:, tf.newaxis],
            tf.boolean_mask(known, known >= 0),
        )
        by_byte = self._merge(characters, points, word_starts, piece, known < 0, pieces, by_byte)

        is_token = by_byte >= 0
        before = tf.concat([[0], tf.cumsum(tf.cast(is_token, tf.int64))], 0)
        byte_ends = tf.concat([[0], tf.cumsum(utf8_length(characters))], 0)
        row_bytes = tf.gather(byte_ends, tf.gather(splits, rows))
        return tf.boolean_mask(by_byte, is_token), tf.gather(before, row_bytes)

    def _known(self, pieces: tf.Tensor, starts_word: tf.Tensor) -> tf.Tensor:
        """int32 [P], the id of each piece that is a token as a whole, else -1."""
        prints = fingerprint(pieces)
        whole = self._checked(self._whole.lookup(prints), pieces)
        if not self._any_words:
            return whole
        ends_word = tf.concat([starts_word[1:], tf.fill([tf.minimum(tf.size(pieces), 1)], True)], 0)
        words = self._checked(self._words.lookup(prints), pieces)
        return tf.where(starts_word & ends_word & (words >= 0), words, whole)

    def _checked(self, ids: tf.Tensor, pieces: tf.Tensor) -> tf.Tensor:
        return tf.where(
            tf.equal(tf.gather(self._strings, tf.maximum(ids, 0)), pieces) & (ids >= 0), ids, -1
        )

    def _merge(
        self,
        characters: tf.Tensor,
        points: tf.Tensor,
        word_starts: tf.Tensor,
        piece: tf.Tensor,
        is_rest: tf.Tensor,
        pieces: tf.Tensor,
        by_byte: tf.Tensor,
    ) -> tf.Tensor:
        """Encode the pieces that are not tokens as a whole."""
        rank = tf.cumsum(tf.cast(is_rest, tf.int32)) - 1
        lengths = utf8_length(characters)
        places = tf.cumsum(lengths, exclusive=True)
        ids = self._characters.lookup(points)
        if self._falls_back:
            count = tf.where(ids >= 0, 1, lengths)
        else:
            unknown = ids < 0
            one = tf.minimum(tf.size(ids), 1)
            after_unknown = tf.concat([tf.fill([one], False), unknown[:-1]], 0)
            count = tf.cast(~(unknown & after_unknown & ~word_starts), tf.int32)
            ids = tf.where(unknown, self._unknown, ids)
        count *= tf.cast(tf.gather(is_rest, piece), tf.int32)
        at = tf.repeat(tf.range(tf.size(ids)), count)
        within = tf.range(tf.size(at)) - tf.gather(tf.cumsum(count, exclusive=True), at)
        symbols, place = tf.gather(ids, at), tf.gather(places, at) + within
        if self._falls_back:
            data = tf.io.decode_raw(tf.strings.reduce_join(pieces), tf.uint8)
            fallback = tf.gather(self._byte_ids, tf.cast(tf.gather(data, place), tf.int32))
            symbols = tf.where(symbols >= 0, symbols, fallback)
        of_rest = tf.gather(rank, tf.gather(piece, at))
        num_rest = tf.reduce_sum(tf.cast(is_rest, tf.int32))
        return self._merges.run(symbols, of_rest, place, num_rest, by_byte)
