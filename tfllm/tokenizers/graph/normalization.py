"""Unicode normalization form C in a graph, with the same result as in the `tokenizers` library.

The library's table of combining marks is that of Unicode 9; TensorFlow's ICU knows later versions.
The library treats the characters that were added since like any letter: they stay where they are,
combine with nothing and let nothing pass. So the text is cut at them, and ICU normalizes what is
between. A test compares the list below with both libraries.
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_text as tf_text

# Added after Unicode 9: combining marks, and letters that are composed of others.
NEWER_CHARACTERS = """
    07FD 0897-089F 08CA-08D3 09FE 0C3C 0D3B-0D3C 0EBA 1715 1ABF-1ACE 1DF6-1DFA A82C 105C9
    105D2 105DA 105E4 10D24-10D27 10D69-10D6D 10EAB-10EAC 10EFD-10EFF 10F46-10F50
    10F82-10F85 11070 1133B 11382-11385 1138B 1138E 11390-11391 113B8 113BB 113C2 113C5
    113C7-113C9 113CE-113D0 1145E 11839-1183A 11930 11935 11938 1193D-1193E 11943 119E0
    11A34 11A47 11A99 11D42 11D44-11D45 11D97 11F41-11F42 1611E-16129 1612F 16D63
    16D67-16D6A 16FF0-16FF1 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF
"""


def _pattern() -> str:
    ranges = (r.split("-") for r in NEWER_CHARACTERS.split())
    return "[" + "".join("-".join(f"\\x{{{bound}}}" for bound in r) for r in ranges) + "]"


def to_nfc(text: tf.Tensor) -> tf.Tensor:
    """Bring each text to form NFC.

    Args:
        text: string [n], valid UTF-8.

    Returns:
        string [n].
    """
    parts = tf_text.regex_split(text, _pattern(), "(?s).*")
    normal = tf_text.normalize_utf8(parts.values, "NFC")
    return tf.strings.unsorted_segment_join(normal, parts.value_rowids(), tf.size(text, tf.int64))
