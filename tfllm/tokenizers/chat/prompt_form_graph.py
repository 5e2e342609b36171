"""Write questions as prompts inside a graph, as `PromptForm` does in Python."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import tensorflow as tf

from tfllm.tokenizers.chat.conversation import BREAK
from tfllm.tokenizers.chat.prompt_form import DATE, WHITE_SPACE, Form, PromptForm

_SPACES = "[" + "".join(f"\\x{{{ord(c):x}}}" for c in WHITE_SPACE) + "]+"
_MONTHS = tuple(datetime.date(2000, i, 1).strftime("%B") for i in range(1, 13))
_SHORT_MONTHS = tuple(datetime.date(2000, i, 1).strftime("%b") for i in range(1, 13))
NO_SYSTEM = "the model's chat template does not support a system message; received one"


def prompts(
    form: PromptForm, special_tokens: Sequence[str], system: tf.Tensor, user: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The prompt of each row, for `TokenizerGraph.tokenize_unbroken`.

    Args:
        form: Prompt form of the model's chat template.
        special_tokens: Special tokens of the tokenizer.
        system: string `[B]`, the system messages; empty for none.
        user: string `[B]`, the questions.

    Returns:
        string `[B]`, the prompts; string `[B]`, the error of each row, or empty.
    """
    has_system = system != ""
    system, user = (broken(special_tokens, words) for words in (system, user))
    days = tf.cast(tf.timestamp(), tf.int64) // 86400
    alone = _filled(form.user, [user], days)
    if form.system_user is None:
        return alone, tf.where(has_system, NO_SYSTEM, "")
    both = _filled(form.system_user, [system, user], days)
    return tf.where(has_system, both, alone), tf.zeros_like(alone)


def broken(special_tokens: Sequence[str], words: tf.Tensor) -> tf.Tensor:
    """string `[B]`, valid UTF-8 with U+FDD0 in each special token, as in `WordBreaker`."""
    words = tf.strings.unicode_transcode(words, "UTF-8", "UTF-8", errors="replace")
    words = tf.strings.regex_replace(words, r"[\x{fdd0}-\x{fdd5}]", "\ufffd")
    tokens = sorted(filter(None, special_tokens), key=len, reverse=True)
    for first in sorted({token[0] for token in tokens}):
        rest = "|".join(_quoted(token[1:]) for token in tokens if token[0] == first)
        words = tf.strings.regex_replace(words, f"({_quoted(first)})({rest})", rf"\1{BREAK}\2")
    return words


def date(pattern: str, days: tf.Tensor) -> tf.Tensor:
    """Format a day as `strftime` does; only `DATE_PARTS` are supported.

    Args:
        pattern: The format.
        days: int64 scalar, days since 1970-01-01.
    """
    # Days since a 1 March, in a cycle of 400 years, so that a leap day is the last day of its year.
    shifted = days + 719_468
    cycle, day = shifted // 146_097, shifted % 146_097
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    from_march = (5 * day + 2) // 153
    month = (from_march + 2) % 12
    year += 400 * cycle + tf.cast(month < 2, tf.int64)
    parts = {
        "%d": tf.strings.as_string(day - (153 * from_march + 2) // 5 + 1, width=2, fill="0"),
        "%m": tf.strings.as_string(month + 1, width=2, fill="0"),
        "%Y": tf.strings.as_string(year),
        "%B": tf.gather(tf.constant(_MONTHS), month),
        "%b": tf.gather(tf.constant(_SHORT_MONTHS), month),
    }
    return tf.strings.join([parts.get(part, part) for part in re.split("(%.)", pattern)])


def _filled(form: Form, words: list[tf.Tensor], days: tf.Tensor) -> tf.Tensor:
    pieces: list[tf.Tensor] = []
    for i, (text, strips) in enumerate(zip(words, form.strips, strict=True)):
        pieces += [_fixed(form.fixed[i], days)] * (i > 0) + [_stripped(text, strips)]
    inner = _stripped(tf.strings.join(pieces), form.strips_all)
    return tf.strings.join([_fixed(form.fixed[0], days), inner, _fixed(form.fixed[-1], days)])


def _fixed(text: str, days: tf.Tensor) -> tf.Tensor:
    parts = [tf.constant(part) for part in DATE.split(text)]
    patterns = DATE.findall(text)
    parts[1::2] = [date(pattern, days) for pattern in patterns]
    return tf.strings.join(parts)


def _stripped(text: tf.Tensor, sides: tuple[bool, bool]) -> tf.Tensor:
    for strips, pattern in zip(sides, (rf"\A{_SPACES}", rf"{_SPACES}\z"), strict=True):
        text = tf.strings.regex_replace(text, pattern, "") if strips else text
    return text


def _quoted(text: str) -> str:
    return "".join(f"\\x{{{ord(c):x}}}" for c in text)
