"""Strings before which a text ends, each row its own."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

SEPARATOR = "\x1f"
"""Stands between a row's stop strings, because a served option is one string a row: U+001F, the
unit separator."""


def joined_stop_strings(stop: Sequence[str]) -> str:
    """Several stop strings in the one string of the `stop` option.

    Raises:
        ValueError: a stop string has the separator in it.
    """
    for text in stop:
        if SEPARATOR in text:
            raise ValueError(f"a stop string must not contain U+001F; received {text!r}")
    return SEPARATOR.join(stop)


class StopStrings:
    """The stop strings of each row, in the graph.

    Args:
        joined: string `[B]`: each row's stop strings, separated by U+001F; empty for none.
    """

    def __init__(self, joined: tf.Tensor) -> None:
        self.joined = joined = tf.strings.regex_replace(joined, "^\x1f+|\x1f+$", "")
        # A regular expression for each row: its strings, quoted, one or another.
        valid = tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
        quoted = tf.strings.regex_replace(valid, r"([!-/:-@\[-`{-~])", r"\\\1")
        self._pattern = tf.strings.join(
            ["(?:", tf.strings.regex_replace(quoted, "\x1f+", "|"), ")"]
        )
        self._any = tf.reduce_any(joined != "")

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """Whether each row's text has one of its stop strings: string `[B]` to bool `[B]`."""

        def found() -> tf.Tensor:
            # Bytes that are not (yet) UTF-8 would not be matched by the dots.
            valid = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
            pattern = tf.strings.join(["(?s).*", self._pattern, ".*"])
            return tf.map_fn(
                lambda row: tf.raw_ops.RegexFullMatch(input=row[0], pattern=row[1]),
                (valid, pattern),
                fn_output_signature=tf.TensorSpec([], tf.bool),
            )

        given = self.joined != ""
        none = tf.zeros_like(given)
        return given & tf.cond(self._any, lambda: tf.reshape(found(), tf.shape(none)), lambda: none)

    def cut(self, text: tf.Tensor) -> tf.Tensor:
        """Each row's text up to the first of its stop strings: string `[B]` to string `[B]`."""

        def cut() -> tf.Tensor:
            pattern = tf.strings.join(["(?s)", self._pattern, ".*"])
            shorter = tf.map_fn(
                lambda row: tf.raw_ops.RegexReplace(
                    input=row[0], pattern=row[1], rewrite="", replace_global=False
                ),
                (text, pattern),
                fn_output_signature=tf.TensorSpec([], tf.string),
            )
            return tf.where(self.joined == "", text, tf.reshape(shorter, tf.shape(text)))

        return tf.cond(self._any, cut, lambda: text)


class HoldBack:
    """Cuts a growing text into pieces, and keeps back what may be the beginning of a stop string.

    Args:
        stop: the stop strings.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._sent = 0

    def piece(self, text: str, *, done: bool) -> str:
        """What is new and certain in `text`; all that is left when it is `done`."""
        end = len(text) if done else len(text) - self._uncertain(text)
        piece = text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _uncertain(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        return max(
            (n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0
        )
