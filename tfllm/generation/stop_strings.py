"""Strings at which a text ends, which may differ in each row."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class StopStrings:
    """The stop strings of each row, in the graph.

    Args:
        joined: string `[B]`, each row's stop strings, separated by U+001F; empty for none.

    Examples:

    >>> import tensorflow as tf
    >>> from tfllm.generation.stop_strings import StopStrings
    >>> StopStrings(tf.constant(["."])).cut(tf.constant(["One. Two."])).numpy()[0]
    b'One'
    """

    def __init__(self, joined: tf.Tensor) -> None:
        self.joined = joined = tf.strings.regex_replace(joined, "^\x1f+|\x1f+$", "")
        # A regular expression for each row: any of its strings, quoted.
        valid = tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
        quoted = tf.strings.regex_replace(valid, r"([!-/:-@\[-`{-~])", r"\\\1")
        self._pattern = tf.strings.join(
            ["(?:", tf.strings.regex_replace(quoted, "\x1f+", "|"), ")"]
        )
        self._any = tf.reduce_any(joined != "")

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        """Whether each row's text contains one of its stop strings: string `[B]` to bool `[B]`."""

        def found() -> tf.Tensor:
            # The dots would not match bytes that are not (yet) UTF-8.
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
        """Cut each row's text at the first of its stop strings: string `[B]` to string `[B]`."""

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


class StopHold:
    """Decides how much of a growing text can be shown before its end is known.

    Text that could be the beginning of a stop string is held back until that is decided, and so is
    a U+FFFD at the end, which may be an incomplete character. The pieces joined are the final text.

    Examples:

    >>> from tfllm.generation.stop_strings import StopHold
    >>> hold = StopHold(["END"])
    >>> [hold.piece("a E", done=False), hold.piece("a Eve", done=True)]
    ['a ', 'Eve']
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._shown = ""

    def piece(self, text: str, done: bool) -> str:
        """The part of `text`, the whole text so far, that is new and can be shown."""
        end = len(text) if done else self._decided(text)
        if end <= len(self._shown) or not text.startswith(self._shown):
            return ""
        new = text[len(self._shown) : end]
        self._shown = text[:end]
        return new

    def _decided(self, text: str) -> int:
        end = len(text.rstrip("\ufffd"))
        for stop in self._stop:
            at = text.find(stop)
            if at >= 0:
                end = min(end, at)
            for length in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:length]):
                    end = min(end, len(text) - length)
                    break
        return end
