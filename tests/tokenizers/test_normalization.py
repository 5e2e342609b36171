"""The list of characters that the two libraries normalize differently is complete."""

import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import normalizers

from tfllm.tokenizers.graph.normalization import NEWER_CHARACTERS, to_nfc

MARKS = ["\u0334", "\u0327", "\u05b0", "\u0301", "\u0345", "\u0f71", "\u3099", "\u0300\u0345"]


def newer() -> set[int]:
    ends = [[int(bound, 16) for bound in r.split("-")] for r in NEWER_CHARACTERS.split()]
    return {c for r in ends for c in range(r[0], r[-1] + 1)}


def in_both(words: list[str], normalize) -> list[tuple[str, str]]:
    ours = normalize(tf.constant([" ".join(words)])).numpy()[0].decode("utf-8").split(" ")
    theirs = normalizers.NFC().normalize_str(" ".join(words)).split(" ")
    assert len(ours) == len(theirs) == len(words)
    return list(zip(ours, theirs, strict=True))


def characters() -> list[str]:
    points = [*range(0x21, 0xD800), *range(0xE000, 0x20000), *range(0x2F800, 0x2FA20)]
    spaces = range(0x2000, 0x2004)  # two of these become others
    return [chr(c) for c in points if c not in spaces]


@pytest.mark.parametrize("mark", MARKS, ids=ascii)
def test_every_character_beside_marks(mark):
    for pattern in ("a{1}{0}", "a{0}{1}", "{0}{1}", "か{0}{1}"):
        words = [pattern.format(c, mark) for c in characters()]
        for word, (ours, theirs) in zip(words, in_both(words, to_nfc), strict=True):
            assert ours == theirs, ascii(word)


def test_every_composition():
    decomposed = tf_text.normalize_utf8(tf.constant(characters()), "NFD").numpy()
    words = [d.decode("utf-8") for d in decomposed]
    assert all(ours == theirs for ours, theirs in in_both(words, to_nfc))


def test_the_list_names_only_characters_that_the_library_leaves_alone():
    nfc = normalizers.NFC()
    for c in map(chr, sorted(newer())):
        for before in ("a\u0301", "e\u0327\u0301"):
            for after in ("\u0327", "\u0301\u0327", "\u0334"):
                apart = nfc.normalize_str(before) + c + nfc.normalize_str(after)
                assert nfc.normalize_str(before + c + after) == apart
