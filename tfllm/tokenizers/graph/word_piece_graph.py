"""BERT's tokenizer inside a TensorFlow graph, with the ids and offsets of the `tokenizers` library.

TF-Text's own BERT normalizer differs from the library in its version of Unicode, in its treatment
of control characters and in words that are too long. So the characters go through a table that was
probed from the library, and TF-Text's kernel does the rest: the longest pieces of each word.

Shapes in this file: B texts, S segments (texts cut at added tokens), C characters, N characters of
words, W words, T tokens. Everything is flat with row splits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.graph.added_tokens_graph import AddedTokenCuts, Special, variable
from tfllm.tokenizers.graph.ragged_rows import (
    equal_rows,
    flagged,
    joined_rows,
    joined_values,
    where_set,
)
from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph, one_function_each, utf8_length
from tfllm.tokenizers.specification.bert_characters import (
    ALONE,
    EXPANDED,
    IN_WORD,
    REMOVED,
    SPACE,
    BertCharacters,
)
from tfllm.tokenizers.specification.word_piece_specification import WordPieceSpecification


class _Words(NamedTuple):
    """Words, and where their characters come from."""

    strings: tf.Tensor
    """string [W]"""
    fixed: tf.Tensor
    """int32 [W], the id of a word that is an added token or too long; else -1"""
    splits: tf.Tensor
    """int64 [W + 1], where each word's characters begin and end"""
    rows: tf.Tensor
    """int64 [B + 1], where each text's words begin and end"""
    values: tf.Tensor
    """int32 [N], the characters"""
    begins: tf.Tensor
    """int32 [N], the index in its text of the character that each was made from"""
    ends: tf.Tensor
    """int32 [N], the index after that"""


class WordPieceGraph(TokenizerGraph):
    """WordPiece in a graph.

    Args:
        specification: Specification of a tokenizer.json.
        token_bytes: Bytes that each id stands for within a text, including the space before it.
        first_bytes: Bytes that each id stands for at the start of a text.
    """

    def __init__(
        self,
        specification: WordPieceSpecification,
        token_bytes: list[bytes],
        first_bytes: list[bytes],
    ) -> None:
        spec = specification
        super().__init__(token_bytes, spec.begin, spec.end, name="word_piece_graph")
        self._most_characters = spec.most_characters
        self._unknown = spec.ids[spec.vocab.index(spec.unknown)]
        self._with_offsets = one_function_each(self._tokenize_with_offsets)
        model = tf_text.FastWordpieceTokenizer(
            spec.vocab,
            suffix_indicator=spec.prefix,
            max_bytes_per_word=2**30,  # the limit is in characters, and applied here
            token_out_type=tf.int32,
            unknown_token=spec.unknown,
            no_pretokenization=True,
        )
        with tf.init_scope(), tf.device("/CPU:0"):
            self._pieces = variable(model._model.numpy(), "pieces")
            self._ids = variable(np.array(spec.ids, np.int32), "ids")
            self._first_bytes = variable(np.array(first_bytes, object), "first_bytes", tf.string)
            self._added = AddedTokenCuts(spec.added, spec.stand_in)
            self._cuts_normalized = any(token.normalized for token in spec.added)
            self._characters = _Characters(spec.characters)
            self._keeps_controls = spec.keeps_controls

    def tokenize_with_offsets(
        self, text: tf.Tensor, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """See `TokenizerGraph`."""
        special: Special = "parsed" if parse_special else "plain"
        return self._with_offsets(special, add_special)(text)

    def _tokenize_with_offsets(
        self, text: tf.Tensor, special: Special, add_special: bool
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        with tf.device("/CPU:0"):
            text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
            words = self._words(text, special)
            ids, starts, ends, word_splits = self._word_ids(words)
            begins, ends = _places(words, starts, ends, word_splits)
            rows = tf.gather(word_splits, words.rows)
            parts = []
            for values, at_begin, at_end in (
                (ids, self._begin, self._end),
                (begins, [0] * len(self._begin), [0] * len(self._end)),
                (ends, [0] * len(self._begin), [0] * len(self._end)),
            ):
                ragged = tf.RaggedTensor.from_row_splits(values, rows, validate=False)
                if add_special and (self._begin or self._end):
                    ragged = self._with_special_tokens(ragged, at_begin, at_end)
                parts.append(ragged)
            return parts[0], parts[1], parts[2]

    def _with_special_tokens(
        self, ragged: tf.RaggedTensor, begin: list[int], end: list[int]
    ) -> tf.RaggedTensor:
        batch = ragged.nrows()
        return joined_rows(equal_rows(begin, batch), ragged, equal_rows(end, batch))

    def _encode(self, text: tf.Tensor, special: Special) -> tuple[tf.Tensor, tf.Tensor]:
        words = self._words(text, special)
        ids, _, _, word_splits = self._word_ids(words)
        return ids, tf.gather(word_splits, words.rows)

    def _words(self, text: tf.Tensor, special: Special) -> _Words:
        segments, added, row_segments = self._added.cut_as_given(text, special)
        decoded = tf.strings.unicode_decode(segments, "UTF-8")
        characters = decoded.values
        if not self._cuts_normalized:
            characters = self._added.restore_nul(characters, text)
        starts = decoded.row_splits
        segment = decoded.value_rowids()
        is_added = tf.gather(added, segment) >= 0
        # An added token is represented by its first character, as a word of its own.
        is_first = tf.equal(
            tf.range(tf.size(characters, tf.int64)), tf.gather(starts[:-1], segment)
        )
        values, kinds, sources = self._characters.rewritten(characters, is_added, is_first)
        segment = tf.gather(segment, sources)
        part, part_ids, row_parts = segment, added, row_segments
        if self._cuts_normalized:
            bounds = tf.searchsorted(segment, tf.range(tf.size(segments, tf.int64) + 1))
            strings = tf.strings.unicode_encode(
                tf.RaggedTensor.from_row_splits(values, bounds, validate=False), "UTF-8"
            )
            parts, part_ids, row_parts = self._added.cut_normalized(
                strings, added, row_segments, special
            )
            lengths = tf.strings.length(parts, unit="UTF8_CHAR")
            part = tf.repeat(tf.range(tf.size(parts, tf.int64)), lengths)
            kinds = tf.where(tf.gather(part_ids, part) >= 0, IN_WORD, kinds)
            if self._keeps_controls:
                values = self._added.restore_nul(values, text)

        edge = tf.fill([tf.minimum(tf.size(values), 1)], True)
        apart = (kinds == ALONE) | (kinds == SPACE)
        after = tf.concat([edge, apart[:-1] | (part[1:] != part[:-1])], 0)
        in_words = kinds != SPACE
        starts_word, values, sources, segment, part = flagged(
            in_words, after | apart, values, sources, segment, part
        )
        word_begins = tf.where(starts_word)[:, 0]
        splits = tf.concat([word_begins, [tf.size(values, tf.int64)]], 0)
        strings = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_splits(values, splits, validate=False), "UTF-8"
        )
        word_part = tf.gather(part, word_begins)
        fixed = tf.gather(part_ids, word_part)
        unknown = splits[1:] - splits[:-1] > self._most_characters
        # No token of the vocabulary has control characters, and the kernel is unsafe with them.
        unknown |= tf.strings.regex_full_match(strings, r"(?s).*[\x00-\x1f\x{7f}-\x{9f}].*")
        fixed = tf.where((fixed < 0) & unknown, self._unknown, fixed)
        rows = tf.searchsorted(word_part, row_parts, out_type=tf.int64)

        row_begins = tf.gather(starts, row_segments[:-1])
        row_begin = tf.repeat(row_begins, row_segments[1:] - row_segments[:-1])
        shift = tf.gather(row_begin, segment)
        of_added = tf.gather(added, segment) >= 0
        ends = tf.where(of_added, tf.gather(starts[1:], segment), sources + 1)
        begins, ends = (tf.cast(x - shift, tf.int32) for x in (sources, ends))
        return _Words(strings, fixed, splits, rows, values, begins, ends)

    def _word_ids(self, words: _Words) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """int32 [T], the ids; int32 [T] twice, the bytes of its word where each begins and ends;
        int64 [W + 1], where each word's tokens begin and end."""
        tokenizer = tf_text.FastWordpieceTokenizer(
            token_out_type=tf.int32, model_buffer=tf.convert_to_tensor(self._pieces)
        )
        is_fixed = words.fixed >= 0
        pieces, starts, ends = tokenizer.tokenize_with_offsets(
            tf.where(is_fixed, "", words.strings)
        )
        fixed = where_set(words.fixed, is_fixed)
        (lengths,) = flagged(is_fixed, tf.strings.length(words.strings))
        splits, ids, begins, ends = joined_values(
            [fixed.row_splits, pieces.row_splits],
            [fixed.values, tf.gather(self._ids, pieces.values)],
            [tf.zeros_like(fixed.values), tf.cast(starts.values, tf.int32)],
            [lengths, tf.cast(ends.values, tf.int32)],
        )
        return ids, begins, ends, splits

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def _detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            known = (ids >= 0) & (ids < self.vocab_size)
            ids = tf.where(known, ids, 0)
            first = tf.where(known, tf.gather(self._first_bytes, ids), "")
            later = tf.where(known, tf.gather(self.token_bytes, ids), "")
            is_token = tf.cast(tf.strings.length(first) > 0, tf.int32)
            at_begin = (is_token > 0) & tf.equal(tf.cumsum(is_token, axis=1), 1)
            joined = tf.strings.reduce_join(tf.where(at_begin, first, later), axis=1)
            return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")


class _Characters(tf.Module):
    """Map code points to their replacements in two steps: the page of 128, and the index on it."""

    def __init__(self, characters: BertCharacters) -> None:
        super().__init__(name="characters")
        self._bits = characters.page_bits
        self._page_of = variable(characters.page_of, "page_of")
        self._kinds = variable(characters.kinds, "kinds")
        self._shifts = variable(characters.shifts, "shifts")
        self._splits = variable(characters.splits, "splits")
        # Never empty, since a gather from an empty tensor fails even if its result is not used.
        self._values = variable(np.append(characters.values, 0).astype(np.int32), "values")
        self._value_kinds = variable(
            np.append(characters.value_kinds, 0).astype(np.int32), "value_kinds"
        )

    def rewritten(
        self, characters: tf.Tensor, is_added: tf.Tensor, is_first: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Replace characters.

        Args:
            characters: int32 [C].
            is_added: bool [C], whether each is part of an added token.
            is_first: bool [C], whether each is the first of its segment.

        Returns:
            int32 [N], the new characters; int32 [N], their kinds; int64 [N], the index of the
            original character of each.
        """
        page = tf.gather(self._page_of, tf.bitwise.right_shift(characters, self._bits))
        place = tf.bitwise.bitwise_and(characters, (1 << self._bits) - 1)
        place += tf.bitwise.left_shift(page, self._bits)
        kinds = tf.gather(self._kinds, place)
        kinds = tf.where(is_added, tf.where(is_first, ALONE, REMOVED), kinds)
        shifted = characters + tf.gather(self._shifts, place)
        shifted = tf.where(is_added, characters, shifted)
        expansion = tf.maximum(kinds - EXPANDED, 0)
        is_expanded = kinds >= EXPANDED
        begin = tf.gather(self._splits, expansion)
        end = tf.gather(self._splits, tf.minimum(expansion + 1, tf.size(self._splits) - 1))
        count = tf.where(is_expanded, end - begin, tf.cast(kinds != REMOVED, tf.int32))

        source = tf.repeat(tf.range(tf.size(characters, tf.int64)), count)
        within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(count, exclusive=True), source)
        at = tf.where(tf.gather(is_expanded, source), tf.gather(begin, source) + within, 0)
        is_expanded = tf.gather(is_expanded, source)
        values = tf.where(is_expanded, tf.gather(self._values, at), tf.gather(shifted, source))
        kinds = tf.where(is_expanded, tf.gather(self._value_kinds, at), tf.gather(kinds, source))
        return values, kinds, source


def _places(
    words: _Words, starts: tf.Tensor, ends: tf.Tensor, word_splits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """int32 [T] twice: the indices of the characters of its text where each token begins and
    ends."""
    byte_ends = tf.cumsum(utf8_length(words.values))
    byte_begins = tf.concat([[0], byte_ends], 0)
    word_begins = tf.gather(byte_begins, words.splits[:-1])
    shift = tf.repeat(word_begins, word_splits[1:] - word_splits[:-1])
    first = tf.searchsorted(byte_ends, starts + shift, side="right")
    last = tf.searchsorted(byte_ends, ends + shift)
    return tf.gather(words.begins, first), tf.gather(words.ends, last)
