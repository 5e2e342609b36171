"""Cut texts at added tokens inside a graph, in the same way as the `tokenizers` library.

Shapes: B texts, S segments (texts that have been cut), P parts of the segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from tfllm.tokenizers.added_tokens import SPACE_PATTERN, AddedToken, word_characters
from tfllm.tokenizers.graph.frozen_table import FrozenTable
from tfllm.tokenizers.graph.ragged_rows import joined_values, where_set
from tfllm.tokenizers.specification.character_classes import CharacterSet

_FINGERPRINTS = 2**62

Special = Literal["parsed", "plain", "unbroken"]
"""How special tokens in a text are treated: "parsed": as tokens; "plain": as ordinary text;
"unbroken": as tokens, except where they contain U+FDD0, which is removed afterwards."""
_BREAK = "\ufdd0"


class AddedTokenCuts(tf.Module):
    """Cuts texts at added tokens and normalizes the text between them, in the library's order.

    Args:
        tokens: The added tokens; the contents of `normalized` ones are in their normal form.
        stand_in: Control character that occurs in no added token.
        normalize: Normalizer of the tokenizer, from string [n] to string [n]. Defaults to none.
    """

    def __init__(
        self,
        tokens: Sequence[AddedToken],
        stand_in: int,
        normalize: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> None:
        super().__init__(name="added_tokens")
        self._normalize = normalize
        self._stand_in = stand_in
        raw = [t for t in tokens if not t.normalized]
        self._raw = _Cut(raw, "added")
        self._normal = _Cut([t for t in tokens if t.normalized], "added_normalized")
        self._raw_or_special, self._normal_text = self._raw, self._normal
        if any(t.normalized and t.special for t in tokens):
            self._raw_or_special = _Cut(
                [t for t in tokens if not t.normalized or t.special], "added_or_special"
            )
            self._normal_text = _Cut(
                [t for t in tokens if t.normalized and not t.special], "added_normalized_text"
            )

    def cut(self, text: tf.Tensor, special: Special) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut each text into segments.

        Args:
            text: string [B], valid UTF-8.
            special: How special tokens in it are treated.

        Returns:
            string [S], the segments, in which another character replaces U+0000 until `restore_nul`
            or `with_nul` is called, and which include the white space that an added token takes;
            int32 [S], the id of a segment that is an added token, else -1; int64 [B + 1], where
            each text's segments start and end.
        """
        segments, ids, rows = self.cut_as_given(text, special)
        if self._normalize:
            segments = tf.where(ids < 0, self._normalize(segments), segments)
        return self.cut_normalized(segments, ids, rows, special)

    def cut_as_given(
        self, text: tf.Tensor, special: Special
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The first half of `cut`: cut at the tokens that are matched before normalization."""
        unbroken, parse = special == "unbroken", special != "plain"
        raw = self._raw_or_special if unbroken else self._raw
        rows = tf.range(tf.size(text, tf.int64) + 1)
        text = tf.strings.regex_replace(text, r"\x00", chr(self._stand_in))
        segments, ids, rows = raw.cut(text, tf.fill(tf.shape(text), -1), rows, parse_special=parse)
        if unbroken:
            segments = tf.strings.regex_replace(segments, _BREAK, "")
        return segments, ids, rows

    def cut_normalized(
        self, segments: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor, special: Special
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The second half of `cut`: cut normalized segments at the other tokens."""
        normal = self._normal_text if special == "unbroken" else self._normal
        return normal.cut(segments, ids, rows, parse_special=special != "plain")

    def restore_nul(self, characters: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        """Restore U+0000 where the text has it.

        RegexSplit ends a text at U+0000, so a control character replaces it. No cut and no
        normalization changes the order of control characters: the first of the two in the text
        corresponds to the first stand-in, and so on.

        Args:
            characters: int32 [C], the characters of all segments.
            text: string [B], the text that was cut.
        """

        def restore() -> tf.Tensor:
            original = tf.strings.unicode_decode(text, "UTF-8").values
            original = tf.boolean_mask(original, (original == 0) | (original == self._stand_in))
            places = tf.where(tf.equal(characters, self._stand_in))
            return tf.tensor_scatter_nd_update(characters, places, original)

        return tf.cond(_has_nul(text), restore, lambda: characters)

    def with_nul(self, segments: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
        """Like `restore_nul`, for strings: string [S]."""

        def restore() -> tf.Tensor:
            decoded = tf.strings.unicode_decode(segments, "UTF-8")
            restored = decoded.with_values(self.restore_nul(decoded.values, text))
            return tf.strings.unicode_encode(restored, "UTF-8")

        return tf.cond(_has_nul(text), restore, lambda: segments)


class _Cut(tf.Module):
    """Cuts segments at added tokens: the leftmost match wins, and of several the longest."""

    def __init__(self, tokens: Sequence[AddedToken], name: str) -> None:
        super().__init__(name=name)
        self._any = bool(tokens)
        if not tokens:
            return
        self._any_special = any(t.special for t in tokens)
        self._all_special = all(t.special for t in tokens)
        self._any_lstrip = any(t.lstrip for t in tokens)
        self._any_rstrip = any(t.rstrip for t in tokens)
        contents = sorted((t.content for t in tokens), key=len, reverse=True)
        self._pattern = "|".join(_quote(c) for c in contents)
        strings = [t.content.encode() for t in tokens]
        # The index among these tokens, since an added token's bytes are not always its content.
        self._index = string_table(strings, np.arange(len(tokens)), f"{name}_index")
        self._contents = variable(np.array(strings, object), f"{name}_contents", tf.string)
        self._ids = variable(np.array([t.id for t in tokens], np.int32), f"{name}_ids")
        names = ("special", "lstrip", "rstrip", "single_word")
        self._special, self._lstrip, self._rstrip, self._single_word = (
            variable(np.array([getattr(t, flag) for t in tokens], bool), f"{name}_{flag}")
            for flag in names
        )
        single = any(t.single_word for t in tokens)
        self._word = _class_of(word_characters()) if single else None

    def cut(
        self,
        segments: tf.Tensor,
        ids: tf.Tensor,
        row_segments: tf.Tensor,
        *,
        parse_special: bool = True,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut the segments that are still text.

        Args and results:
            segments: string [S].
            ids: int32 [S], the id of a segment that is an added token, else -1.
            row_segments: int64 [B + 1], where each text's segments start and end.
            parse_special: Whether special tokens are cut out; if False, they are ordinary text.
        """
        if not self._any or (self._all_special and not parse_special):
            return segments, ids, row_segments
        is_text = ids < 0
        cut = tf_text.regex_split(tf.where(is_text, segments, ""), self._pattern, r"(?s).*")
        parts, row_splits = cut.values, cut.row_splits
        index = self._index.lookup(fingerprint(parts))
        found = (index >= 0) & tf.equal(tf.gather(self._contents, tf.maximum(index, 0)), parts)
        index = tf.where(found, index, -1)
        if self._any_special and not parse_special:
            # They are matched all the same: the library finds no token that overlaps with one.
            index = tf.where(_flag(self._special, index), -1, index)
        if self._word is not None:
            index = self._single(parts, index, row_splits)
        if self._word is not None or (self._any_special and not parse_special):
            parts, index, row_splits = _text_joined(parts, index, row_splits)
        if self._any_lstrip or self._any_rstrip:
            parts, index, row_splits = self._stripped(parts, index, row_splits)
        new_ids = tf.where(index >= 0, tf.gather(self._ids, tf.maximum(index, 0)), -1)
        old, old_ids = (where_set(values, ~is_text) for values in (segments, ids))
        splits, strings, string_ids = joined_values(
            [old.row_splits, row_splits], [old.values, parts], [old_ids.values, new_ids]
        )
        return strings, string_ids, tf.gather(splits, row_segments)

    def _single(self, parts: tf.Tensor, index: tf.Tensor, row_splits: tf.Tensor) -> tf.Tensor:
        """Drop the index of `single_word` tokens that are next to a character of a word."""
        assert self._word is not None
        adjacent = _adjacent(row_splits)
        edge = tf.zeros([tf.minimum(tf.size(index), 1)], bool)
        ends = tf.strings.regex_full_match(parts, f"(?s).*{self._word}")
        begins = tf.strings.regex_full_match(parts, f"(?s){self._word}.*")
        in_word = tf.concat([edge, adjacent & ends[:-1]], 0)
        in_word |= tf.concat([adjacent & begins[1:], edge], 0)
        return tf.where(_flag(self._single_word, index) & in_word, -1, index)

    def _stripped(
        self, parts: tf.Tensor, index: tf.Tensor, row_splits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Add the white space around `lstrip` and `rstrip` tokens to their parts."""
        adjacent = _adjacent(row_splits)
        edge = tf.zeros([tf.minimum(tf.size(index), 1)], bool)
        nothing = tf.fill([tf.minimum(tf.size(index), 1)], "")
        is_text = index < 0
        after_token = tf.concat([edge, adjacent & _flag(self._rstrip, index[:-1])], 0)
        bare = tf.strings.regex_replace(parts, r"\A" + SPACE_PATTERN, "")
        bare = tf.where(is_text & after_token, bare, parts)
        num_moved = tf.strings.length(parts) - tf.strings.length(bare)
        moved = tf.strings.substr(parts, tf.zeros_like(num_moved), num_moved)
        parts = bare + tf.concat([moved[1:], nothing], 0)
        before_token = tf.concat([adjacent & _flag(self._lstrip, index[1:]), edge], 0)
        bare = tf.strings.regex_replace(parts, SPACE_PATTERN + r"\z", "")
        bare = tf.where(is_text & before_token, bare, parts)
        kept = tf.strings.length(bare)
        moved = tf.strings.substr(parts, kept, tf.strings.length(parts) - kept)
        parts = tf.concat([nothing, moved[:-1]], 0) + bare
        keep = ~is_text | (tf.strings.length(parts) > 0)
        before = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], 0)
        return (
            tf.boolean_mask(parts, keep),
            tf.boolean_mask(index, keep),
            tf.gather(before, row_splits),
        )


def _adjacent(row_splits: tf.Tensor) -> tf.Tensor:
    """bool [P - 1], whether each part is in the same segment as the next one."""
    rows = tf.repeat(tf.range(tf.size(row_splits) - 1), row_splits[1:] - row_splits[:-1])
    return tf.equal(rows[1:], rows[:-1])


def _text_joined(
    parts: tf.Tensor, index: tf.Tensor, row_splits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Join adjacent parts of a segment that are not tokens."""
    rows = tf.repeat(tf.range(tf.size(row_splits) - 1), row_splits[1:] - row_splits[:-1])
    is_token = index >= 0
    first = tf.ones([tf.minimum(tf.size(rows), 1)], bool)
    begins = tf.concat([first, is_token[1:] | is_token[:-1] | (rows[1:] != rows[:-1])], 0)
    before = tf.concat([[0], tf.cumsum(tf.cast(begins, tf.int64))], 0)
    joined = tf.strings.unsorted_segment_join(parts, before[1:] - 1, before[-1])
    return joined, tf.boolean_mask(index, begins), tf.gather(before, row_splits)


def _has_nul(text: tf.Tensor) -> tf.Tensor:
    return tf.reduce_any(tf.strings.regex_full_match(text, r"(?s).*\x00.*"))


def _flag(flags: tf.Variable, index: tf.Tensor) -> tf.Tensor:
    return (index >= 0) & tf.gather(flags, tf.maximum(index, 0))


def variable(value: np.ndarray, name: str, dtype: tf.DType | None = None) -> tf.Variable:
    """A constant that is saved with the weights rather than in the graph."""
    return tf.Variable(tf.constant(value, dtype), trainable=False, name=name)


def fingerprint(strings: tf.Tensor) -> tf.Tensor:
    """int64, a hash of each string. Different strings may collide, so matches must be compared."""
    return tf.strings.to_hash_bucket_fast(strings, _FINGERPRINTS)


def string_table(strings: Sequence[bytes], values: np.ndarray, name: str) -> FrozenTable:
    """A table from fingerprints to values; of strings that collide it only holds the first."""
    prints = fingerprint(tf.constant(strings, tf.string)).numpy()
    prints, first = np.unique(prints, return_index=True)
    return FrozenTable(prints, np.asarray(values, np.int32)[first], -1, name)


def _quote(text: str) -> str:
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text)


def _class_of(characters: CharacterSet) -> str:
    """The set as a character class of RE2."""
    bounds = characters.bounds.reshape(-1, 2)
    return "[" + "".join(rf"\x{{{low:x}}}-\x{{{high - 1:x}}}" for low, high in bounds) + "]"
