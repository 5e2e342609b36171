"""The normalizer Precompiled inside a TensorFlow graph; see `precompiled.py`.

Shapes in this file: S texts, C characters, G graphemes.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.added_tokens_graph import variable
from tfllm.tokenizers.graph.frozen_table import FrozenTable
from tfllm.tokenizers.graph.tokenizer_graph import utf8_length
from tfllm.tokenizers.specification.precompiled import (
    CONTROL,
    JOINS,
    LEADING,
    PREPEND,
    SHORT,
    SYLLABLES,
    TRAILING,
    VOWEL,
    PrecompiledTable,
    grapheme_classes,
    packed,
)


class PrecompiledGraph(tf.Module):
    """Applies the replacements of a table."""

    def __init__(self, table: PrecompiledTable) -> None:
        super().__init__(name="precompiled")
        self._bits = table.page_bits
        page_of, class_of = grapheme_classes()
        self._class_page, self._class_of = (
            variable(page_of, "class_page"),
            variable(class_of, "class_of"),
        )
        self._page_of = variable(table.page_of, "page_of")
        self._entry_of = variable(table.entry_of, "entry_of")
        self._keys = FrozenTable(table.keys, table.key_entries, -1, "keys")
        # Never empty, since a gather from an empty tensor fails even if its result is not used.
        self._splits = variable(np.append(table.splits, table.splits[-1]), "splits")
        self._values = variable(np.append(table.values, 0).astype(np.int32), "values")

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """string [S] to string [S]."""
        decoded = tf.strings.unicode_decode(text, "UTF-8")
        characters, row = decoded.values, decoded.value_rowids()
        begins = self._begins(characters, row)
        grapheme = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        num_graphemes = tf.reduce_sum(tf.cast(begins, tf.int32))
        size = tf.math.unsorted_segment_sum(utf8_length(characters), grapheme, num_graphemes)
        short = tf.gather(size, grapheme) < SHORT

        own = self._looked_up(self._page_of, self._entry_of, characters)
        second = _following(characters, begins, 1)
        third = _following(characters, begins, 2)
        first, bits = tf.cast(characters, tf.int64), packed("\0\1")
        pair = (first * bits + second) * bits
        found = self._keys.lookup(pair)
        found = tf.where(second > 0, found, -1)
        triple = self._keys.lookup(pair + third)
        found = tf.where((found < 0) & (third > 0), triple, found)
        # At the first character of a short grapheme: the entry that replaces the whole grapheme.
        whole = tf.where(begins & short, tf.where(own >= 0, own, found), -1)
        starts = tf.where(begins)[:, 0]
        replaced = tf.gather(tf.gather(whole, starts), grapheme) >= 0
        entry = tf.where(replaced, whole, own)
        dropped = replaced & ~begins

        at = tf.maximum(entry, 0)
        begin, end = tf.gather(self._splits, at), tf.gather(self._splits, at + 1)
        count = tf.where(entry >= 0, end - begin, tf.cast(~dropped, tf.int32))
        source = tf.repeat(tf.range(tf.size(characters)), count)
        within = tf.range(tf.size(source)) - tf.gather(tf.cumsum(count, exclusive=True), source)
        is_entry = tf.gather(entry, source) >= 0
        place = tf.where(is_entry, tf.gather(begin, source) + within, 0)
        values = tf.where(is_entry, tf.gather(self._values, place), tf.gather(characters, source))
        before = tf.concat([[0], tf.cumsum(tf.cast(count, tf.int64))], 0)
        splits = tf.gather(before, decoded.row_splits)
        ragged = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        return tf.strings.unicode_encode(ragged, "UTF-8")

    def _looked_up(self, pages: tf.Tensor, values: tf.Tensor, characters: tf.Tensor) -> tf.Tensor:
        page = tf.gather(pages, tf.bitwise.right_shift(characters, self._bits))
        place = tf.bitwise.bitwise_and(characters, (1 << self._bits) - 1)
        return tf.gather(values, tf.bitwise.left_shift(page, self._bits) + place)

    def _begins(self, characters: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        """bool [C], whether each begins a grapheme (Unicode's annex 29); only exact for short
        graphemes."""
        kinds = self._looked_up(self._class_page, self._class_of, characters)
        before, after = kinds[:-1], kinds[1:]
        is_syllable = (characters >= SYLLABLES[0]) & (characters < SYLLABLES[1])
        part = ~is_syllable[1:] & ((after == VOWEL) | (after == TRAILING))
        hangul = (before == LEADING) & (is_syllable[1:] | (after == LEADING) | (after == VOWEL))
        hangul |= (before == VOWEL) & part
        hangul |= (before == TRAILING) & part & (after == TRAILING)
        joined = (before == PREPEND) | (after == JOINS) | hangul
        joined &= (before != CONTROL) & (after != CONTROL)
        joined |= (characters[:-1] == ord("\r")) & (characters[1:] == ord("\n"))
        joined &= row[1:] == row[:-1]
        first = tf.fill([tf.minimum(tf.size(characters), 1)], True)
        return tf.concat([first, ~joined], 0)


def _following(characters: tf.Tensor, begins: tf.Tensor, distance: int) -> tf.Tensor:
    """int64 [C], the character `distance` after each in the same grapheme; 0 if there is none."""
    size = tf.size(characters)
    padding = tf.zeros([tf.minimum(size, distance)], tf.int32)
    shifted = tf.concat([characters[distance:], padding], 0)
    ends = tf.concat([begins, tf.fill([distance], True)], 0)
    inside = tf.fill([size], True)
    for step in range(1, distance + 1):
        inside &= ~ends[step : step + size]
    return tf.cast(tf.where(inside, shifted, 0), tf.int64)
