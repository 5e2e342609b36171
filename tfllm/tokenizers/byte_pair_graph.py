"""Byte-level BPE inside a TensorFlow graph: the ids of the `tokenizers` library, from TF kernels.

Shapes in this file: B texts, S segments (texts cut at added tokens), C characters, P pieces (what
the split pattern makes), N symbols (tokens in the making). Everything is flat with row splits.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.character_classes import Atoms
from tfllm.tokenizers.frozen_table import FrozenTable
from tfllm.tokenizers.merge_loop import MergeLoop
from tfllm.tokenizers.normalization import to_nfc
from tfllm.tokenizers.specification import AddedToken, Specification, Split

_FINGERPRINTS = 2**62
_ANY = r"[\x01-\x7f]*"


class BytePairGraph(tf.Module):
    """Text to ids and back with TF core and TF-Text kernels only.

    The tables are variables, so a SavedModel keeps them beside its weights; nothing grows. All of
    it runs on the CPU.

    Attributes:
        token_bytes: string [vocab_size], each id's own bytes ("" for special tokens).
        vocab_size: number of ids.
    """

    def __init__(self, specification: Specification) -> None:
        super().__init__(name="byte_pair_graph")
        spec = specification
        self.vocab_size = spec.vocab_size
        self._normalize = spec.normalize
        self._begin, self._end = spec.begin, spec.end
        self._stand_in = spec.stand_in
        special = {t.id for t in spec.added if t.special}
        tokens = [b"" if i in special else token for i, token in enumerate(spec.tokens)]
        with tf.init_scope(), tf.device("/CPU:0"):
            self.token_bytes = _variable(np.array(tokens, object), "token_bytes", tf.string)
            whole = spec.whole[~np.isin(spec.whole, list(special))]
            self._whole = _string_table([tokens[i] for i in whole], whole, "whole")
            self._added = [
                _AddedTokens(group, name)
                for group, name in (
                    ([t for t in spec.added if not t.normalized], "added"),
                    ([t for t in spec.added if t.normalized], "added_normalized"),
                )
            ]
            self._classes = _Classes(spec.atoms)
            self._splits = [_Splitter(s, f"split_{i}") for i, s in enumerate(spec.splits)]
            self._byte_ids = _variable(spec.byte_ids, "byte_ids")
            longest = max((len(spec.tokens[i]) for i in spec.merge_results), default=1)
            self._merges = MergeLoop(
                spec.merge_pairs, spec.merge_results, spec.merge_unsafe, longest
            )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")], autograph=False)
    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """The ids of each text.

        Args:
            text: string [batch]; bytes that are not UTF-8 count as U+FFFD, one for each longest
                start of a character that is cut short and one for each other stray byte.

        Returns:
            int32 [batch, (tokens)].
        """
        with tf.device("/CPU:0"):
            pieces, added_ids, row_pieces = self._pieces(text)
            values, row_splits = self._ids(pieces, added_ids, row_pieces)
            ids = tf.RaggedTensor.from_row_splits(values, row_splits, validate=False)
            if self._begin or self._end:
                rows = tf.shape(text)[0]
                begin, end = (
                    tf.RaggedTensor.from_tensor(tf.tile(tf.constant([x], tf.int32), [rows, 1]))
                    for x in (self._begin, self._end)
                )
                ids = tf.concat([begin, ids, end], axis=1)
            return ids

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """The text of each row of ids.

        Args:
            ids: int32 [batch, time], dense or ragged. Special tokens and ids outside
                0 .. vocab_size - 1 (padding) are skipped.

        Returns:
            string [batch], always valid UTF-8: a broken sequence becomes U+FFFD.
        """
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(default_value=-1)
        return self._detokenize(tf.cast(ids, tf.int32))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def _detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            known = (ids >= 0) & (ids < self.vocab_size)
            parts = tf.gather(self.token_bytes, tf.where(known, ids, 0))
            joined = tf.strings.reduce_join(tf.where(known, parts, ""), axis=1)
            return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    def _pieces(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut the texts into pieces that are encoded one by one.

        Returns:
            string [P], the pieces; int32 [P], the id of a piece that is an added token, else -1;
            int64 [B + 1], where each text's pieces start and end.
        """
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        segments = tf.strings.regex_replace(text, r"\x00", chr(self._stand_in))
        ids = tf.fill(tf.shape(segments), -1)
        row_segments = tf.range(tf.size(segments, tf.int64) + 1)
        segments, ids, row_segments = self._added[0].cut(segments, ids, row_segments)
        if self._normalize:
            segments = tf.where(ids < 0, to_nfc(segments), segments)
        segments, ids, row_segments = self._added[1].cut(segments, ids, row_segments)

        decoded = tf.strings.unicode_decode(segments, "UTF-8")
        characters, splits = self._restore_nul(decoded.values, text), decoded.row_splits
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

    def _restore_nul(self, characters: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        """Put U+0000 back where the text has it.

        RegexSplit ends a text at U+0000, so a control character takes its place. No cut and no
        normalization changes the order of control characters: the first of the two in the text is
        the first of the stand-ins, and so on.
        """

        def restore() -> tf.Tensor:
            original = tf.strings.unicode_decode(text, "UTF-8").values
            original = tf.boolean_mask(original, (original == 0) | (original == self._stand_in))
            places = tf.where(tf.equal(characters, self._stand_in))
            return tf.tensor_scatter_nd_update(characters, places, original)

        has_nul = tf.reduce_any(tf.strings.regex_full_match(text, r"(?s).*\x00.*"))
        return tf.cond(has_nul, restore, lambda: characters)

    def _ids(
        self, pieces: tf.Tensor, added_ids: tf.Tensor, row_pieces: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode pieces: int32 [tokens], and int64 [B + 1], where each text's tokens start and end.

        A token's place among the others is the place of its first byte.
        """
        lengths = tf.strings.length(pieces)
        ends = tf.cumsum(lengths)
        starts = ends - lengths
        total = tf.reduce_sum(lengths)

        whole = self._whole.lookup(_fingerprint(pieces))
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
        has_id = tf.where(symbols >= 0)[:, 0]  # the library leaves out bytes without an id
        symbols, piece, place = (tf.gather(x, has_id) for x in (symbols, piece, place))
        by_byte = self._merges.run(symbols, piece, place, tf.size(rest), by_byte)

        is_token = by_byte >= 0
        tokens_before = tf.concat([[0], tf.cumsum(tf.cast(is_token, tf.int64))], 0)
        row_bytes = tf.gather(tf.concat([[0], ends], 0), row_pieces)
        return tf.boolean_mask(by_byte, is_token), tf.gather(tokens_before, row_bytes)


def _variable(value: np.ndarray, name: str, dtype: tf.DType | None = None) -> tf.Variable:
    return tf.Variable(tf.constant(value, dtype), trainable=False, name=name)


def _fingerprint(strings: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(strings, _FINGERPRINTS)


def _string_table(strings: list[bytes], values: np.ndarray, name: str) -> FrozenTable:
    """A table from fingerprints; of strings with one fingerprint only the first is in it."""
    prints = _fingerprint(tf.constant(strings, tf.string)).numpy()
    prints, first = np.unique(prints, return_index=True)
    return FrozenTable(prints, np.asarray(values, np.int32)[first], -1, name)


class _Classes(tf.Module):
    """Code point to atom, in two steps: the page of 128 code points, and the place on it."""

    def __init__(self, atoms: Atoms) -> None:
        super().__init__(name="classes")
        self._bits = atoms.page_bits
        self._page_of = _variable(atoms.page_of, "page_of")
        self._atom_of = _variable(atoms.atom_of, "atom_of")

    def atoms(self, characters: tf.Tensor) -> tf.Tensor:
        """int32 [C] to int32 [C]."""
        page = tf.gather(self._page_of, tf.bitwise.right_shift(characters, self._bits))
        place = tf.bitwise.bitwise_and(characters, (1 << self._bits) - 1)
        return tf.gather(self._atom_of, tf.bitwise.left_shift(page, self._bits) + place)


class _Splitter(tf.Module):
    """Cuts pieces by one split pattern."""

    def __init__(self, split: Split, name: str) -> None:
        super().__init__(name=name)
        self._pattern, self._bits = split.pattern, split.num_look_aheads
        self._end_bits = split.end_bits
        self._letters = _variable(split.letters.astype(np.int32), "letters")
        self._next_bits = _variable(split.next_bits, "next_bits")

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


class _AddedTokens(tf.Module):
    """Cuts segments at added tokens: the leftmost, and of several the longest."""

    def __init__(self, tokens: list[AddedToken], name: str) -> None:
        super().__init__(name=name)
        self._any = bool(tokens)
        if not tokens:
            return
        contents = sorted((t.content for t in tokens), key=len, reverse=True)
        self._pattern = "|".join(_quote(c) for c in contents)
        strings = [t.content.encode() for t in tokens]
        self._ids = _string_table(strings, np.array([t.id for t in tokens]), name)
        # An index of its own, since an added token's bytes are not always its content.
        self._index = _string_table(strings, np.arange(len(tokens)), f"{name}_index")
        self._contents = _variable(np.array(strings, object), f"{name}_contents", tf.string)

    def cut(
        self, segments: tf.Tensor, ids: tf.Tensor, row_segments: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut the segments that are text yet.

        Args and results:
            segments: string [S].
            ids: int32 [S], the id of a segment that is an added token, else -1.
            row_segments: int64 [B + 1], where each text's segments start and end.
        """
        if not self._any:
            return segments, ids, row_segments
        is_text = ids < 0
        cut = tf_text.regex_split(tf.where(is_text, segments, ""), self._pattern, r"(?s).*")
        prints = _fingerprint(cut.values)
        index = self._index.lookup(prints)
        found = (index >= 0) & tf.equal(tf.gather(self._contents, tf.maximum(index, 0)), cut.values)
        new_ids = cut.with_values(tf.where(found, self._ids.lookup(prints), -1))
        whole = tf.cast(~is_text, tf.int64)
        old = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(segments, ~is_text), whole)
        old_ids = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, ~is_text), whole)
        strings = tf.concat([old, cut], 1)
        return (
            strings.values,
            tf.concat([old_ids, new_ids], 1).values,
            tf.gather(strings.row_splits, row_segments),
        )


def _quote(text: str) -> str:
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text)
