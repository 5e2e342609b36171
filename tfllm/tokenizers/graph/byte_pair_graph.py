"""Byte-level BPE inside a TensorFlow graph, with the same ids as in the `tokenizers` library.

Shapes in this file: B texts, S segments (texts cut at added tokens), C characters, P pieces (the
results of the split pattern), N symbols (unfinished tokens). Everything is flat with row splits.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.graph.added_tokens_graph import (
    AddedTokenCuts,
    fingerprint,
    string_table,
    variable,
)
from tfllm.tokenizers.graph.merge_loop import MergeLoop
from tfllm.tokenizers.graph.normalization import to_nfc
from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph
from tfllm.tokenizers.specification.byte_pair_specification import Specification, Split
from tfllm.tokenizers.specification.character_classes import Atoms

_ANY = r"[\x01-\x7f]*"


class BytePairGraph(TokenizerGraph):
    """Byte-level BPE in a graph."""

    def __init__(self, specification: Specification) -> None:
        spec = specification
        special = {t.id for t in spec.added if t.special}
        tokens = [b"" if i in special else token for i, token in enumerate(spec.tokens)]
        super().__init__(tokens, spec.begin, spec.end, name="byte_pair_graph")
        with tf.init_scope(), tf.device("/CPU:0"):
            whole = spec.whole[~np.isin(spec.whole, list(special))]
            self._whole = string_table([tokens[i] for i in whole], whole, "whole")
            self._added = AddedTokenCuts(
                spec.added, spec.stand_in, to_nfc if spec.normalize else None
            )
            self._classes = _Classes(spec.atoms)
            self._splits = [_Splitter(s, f"split_{i}") for i, s in enumerate(spec.splits)]
            self._byte_ids = variable(spec.byte_ids, "byte_ids")
            lengths = np.array([len(token) for token in spec.tokens])
            self._merges = MergeLoop(
                spec.merge_pairs, spec.merge_results, spec.merge_unsafe, lengths
            )

    def _encode_segments(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self._ids(*self._pieces(text, segments, ids, row_segments))

    def _pieces(
        self, text: tf.Tensor, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut the texts into pieces that are encoded separately.

        Returns:
            string [P], the pieces; int32 [P], the id of a piece that is an added token, else -1;
            int64 [B + 1], where each text's pieces start and end.
        """
        decoded = tf.strings.unicode_decode(segments, "UTF-8")
        characters, splits = self._added.restore_nul(decoded.values, text), decoded.row_splits
        atoms = self._classes.atoms(characters)
        is_added = tf.repeat(ids >= 0, decoded.row_lengths())
        segment_pieces = tf.range(tf.size(segments, tf.int64) + 1)
        for splitter in self._splits:
            splits, inner = splitter.cut(atoms, is_added, splits)
            segment_pieces = tf.gather(inner, segment_pieces)
        pieces = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(characters, splits, validate=False), "UTF-8"
        )
        piece_ids = tf.repeat(ids, segment_pieces[1:] - segment_pieces[:-1])
        return pieces, piece_ids, tf.gather(segment_pieces, row_segments)

    def _ids(
        self, pieces: tf.Tensor, added_ids: tf.Tensor, row_pieces: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode pieces: int32 [tokens], and int64 [B + 1], where each text's tokens start and end.

        Tokens are ordered by the position of their first byte.
        """
        lengths = tf.strings.length(pieces)
        ends = tf.cumsum(lengths)
        starts = ends - lengths
        total = tf.reduce_sum(lengths)

        whole = self._whole.lookup(fingerprint(pieces))
        whole = tf.where(
            tf.equal(tf.gather(self.token_bytes, tf.maximum(whole, 0)), pieces), whole, -1
        )
        known = tf.where(added_ids >= 0, added_ids, whole)
        is_known = known >= 0
        by_byte = tf.tensor_scatter_nd_update(
            tf.fill([total], -1),
            tf.boolean_mask(starts, is_known)[:, tf.newaxis],
            tf.boolean_mask(known, is_known),
        )

        rest = tf.where(~is_known)[:, 0]
        data = tf.io.decode_raw(tf.strings.reduce_join(tf.gather(pieces, rest)), tf.uint8)
        rest_lengths = tf.gather(lengths, rest)
        piece = tf.repeat(tf.range(tf.size(rest)), rest_lengths)
        shift = tf.gather(starts, rest) - tf.cumsum(rest_lengths, exclusive=True)
        place = tf.range(tf.size(data)) + tf.repeat(shift, rest_lengths)
        symbols = tf.gather(self._byte_ids, tf.cast(data, tf.int32))
        has_id = tf.where(symbols >= 0)[:, 0]  # the library drops bytes without an id
        symbols, piece, place = (tf.gather(x, has_id) for x in (symbols, piece, place))
        by_byte = self._merges.run(symbols, piece, place, tf.size(rest), by_byte)

        is_token = by_byte >= 0
        tokens_before = tf.concat([[0], tf.cumsum(tf.cast(is_token, tf.int64))], 0)
        row_bytes = tf.gather(tf.concat([[0], ends], 0), row_pieces)
        return tf.boolean_mask(by_byte, is_token), tf.gather(tokens_before, row_bytes)


class _Classes(tf.Module):
    """Map code points to atoms in two steps: the page of 128 code points, and the index on it."""

    def __init__(self, atoms: Atoms) -> None:
        super().__init__(name="classes")
        self._bits = atoms.page_bits
        self._page_of = variable(atoms.page_of, "page_of")
        self._atom_of = variable(atoms.atom_of, "atom_of")

    def atoms(self, characters: tf.Tensor) -> tf.Tensor:
        """int32 [C] to int32 [C]."""
        page = tf.gather(self._page_of, tf.bitwise.right_shift(characters, self._bits))
        place = tf.bitwise.bitwise_and(characters, (1 << self._bits) - 1)
        return tf.gather(self._atom_of, tf.bitwise.left_shift(page, self._bits) + place)


class _Splitter(tf.Module):
    """Cuts pieces with one split pattern."""

    def __init__(self, split: Split, name: str) -> None:
        super().__init__(name=name)
        self._pattern, self._bits = split.pattern, split.num_look_aheads
        self._end_bits = split.end_bits
        self._letters = variable(split.letters.astype(np.int32), "letters")
        self._next_bits = variable(split.next_bits, "next_bits")

    def cut(
        self, atoms: tf.Tensor, is_added: tf.Tensor, splits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Cut each piece.

        Args:
            atoms: int32 [C].
            is_added: bool [C], characters of added tokens, which stay in one piece.
            splits: int64 [P + 1], where each piece's characters start and end.

        Returns:
            int64 [new P + 1], the new pieces; int64 [P + 1], where each old piece's new ones start
            and end.
        """
        index = atoms
        if self._bits:
            ahead = tf.concat([tf.gather(self._next_bits, atoms[1:]), [self._end_bits]], 0)
            ahead = ahead[: tf.size(atoms)]
            last = tf.boolean_mask(splits[1:], splits[1:] > splits[:-1]) - 1
            ahead = tf.tensor_scatter_nd_update(
                ahead, last[:, tf.newaxis], tf.fill(tf.shape(last), self._end_bits)
            )
            index = tf.bitwise.left_shift(atoms, self._bits) + ahead
        letters = tf.where(is_added, 1, tf.gather(self._letters, index))
        strings = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(letters, splits, validate=False), "UTF-8"
        )
        _, begin, _ = tf_text.regex_split_with_offsets(strings, self._pattern, _ANY)
        starts = begin.values + tf.repeat(splits[:-1], begin.row_lengths())
        return tf.concat([starts, splits[-1:]], 0), begin.row_splits
