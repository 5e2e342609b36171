"""A chat template as a form to fill in: fixed text around the words of the system and the user.

A template is a program, and a graph cannot run one. For a single question, most templates only put
words between fixed pieces of text; which pieces these are, and whether the words are stripped, is
found by rendering probes. A template that does more has no form, and the reason is given.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from tfllm.tokenizers.chat.chat_template import ChatTemplate
from tfllm.tokenizers.chat.template_sandbox import Sandbox

WHITE_SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
"""The characters that `str.strip` removes."""
DATE = re.compile("\ufdd4(.*?)\ufdd5", re.DOTALL)
"""In fixed text: a date in a format of `strftime`, which is filled in at each use."""
DATE_PARTS = ("%d", "%m", "%Y", "%b", "%B")
"""The supported parts of such a format."""

_CORES = ("pRobe4571", "pRobe8236")
_PADDING = (" \n", "\n ")
_NOON = datetime.datetime(2031, 5, 6, 12)


class NoPromptForm(ValueError):
    """The template does more than put words between fixed text."""


@dataclass(frozen=True)
class Form:
    """Fixed text with words between it."""

    fixed: tuple[str, ...]
    """the fixed pieces, one more than there are words"""
    strips: tuple[tuple[bool, bool], ...]
    """for each of the words, whether white space is removed on its left and on its right"""
    strips_all: tuple[bool, bool] = (False, False)
    """the same for everything between the first and the last fixed text, afterwards"""

    def fill(self, words: Sequence[str], now: datetime.datetime) -> str:
        """Insert words, which are already broken; see `WordBreaker`."""
        inner = ""
        for word, strips, fixed in zip(words, self.strips, ("", *self.fixed[1:-1]), strict=True):
            inner += _dated(fixed, now) + _stripped(word, strips)
        inner = _stripped(inner, self.strips_all)
        return _dated(self.fixed[0], now) + inner + _dated(self.fixed[-1], now)


def _stripped(text: str, sides: tuple[bool, bool]) -> str:
    text = text.lstrip() if sides[0] else text
    return text.rstrip() if sides[1] else text


@dataclass(frozen=True)
class PromptForm:
    """The form of a single question, and of one with a system message before it."""

    user: Form
    system_user: Form | None
    """None if the template does not support a system message"""


def prompt_form(template: ChatTemplate) -> PromptForm:
    """Find the form of a template.

    Raises:
        NoPromptForm: If it has none.
    """
    words = list(_probe_words(template))
    user = _form(template, 1, words)
    try:
        _render(template, list(_CORES))
    except ValueError:
        return PromptForm(user, None)
    return PromptForm(user, _form(template, 2, words))


def _form(template: ChatTemplate, number: int, words: list[str]) -> Form:
    """The form for one word (the user's) or two (the system's and the user's)."""
    cores = list(_CORES[:number])
    try:
        text = _render(template, cores, _Dates())
        fixed = tuple(re.split("|".join(cores), text))
        if re.findall("|".join(cores), text) != cores:
            raise NoPromptForm("it writes the words of a message twice, changed, or not at all")
        padded = [_PADDING[0] + core + _PADDING[1] for core in cores]
        rendered = _render(template, padded, _Dates())
    except NoPromptForm:
        raise
    except ValueError as error:
        raise NoPromptForm(f"it does not accept a single question: {error}") from None
    forms = [form for form in _forms(fixed) if form.fill(padded, _Dates()) == rendered]
    if not forms:
        raise NoPromptForm("it changes the words of a message in other ways than stripping them")
    _check_fixed(template, forms[0])
    for word in words:
        for place in range(number):
            given = [*cores]
            given[place] = word
            if number == 2 and not given[0]:
                continue  # an empty system message counts as none
            try:
                text = _render(template, given, _NOON)
            except ValueError as error:
                raise NoPromptForm(f"it refuses {word[:40]!r}: {error}") from None
            broken = [template._break(word) for word in given]
            forms = [form for form in forms if form.fill(broken, _NOON) == text]
            if not forms:
                raise NoPromptForm(f"what it writes around {word[:40]!r} depends on these words")
    return forms[0]


def _render(template: ChatTemplate, words: list[str], now: Any = None) -> str:
    roles = ("user",) if len(words) == 1 else ("system", "user")
    messages = [
        {"role": role, "content": template._break(word)}
        for role, word in zip(roles, words, strict=True)
    ]
    return template.program.run(messages, True, {}, now=now)


class _Dates(datetime.datetime):
    """A time that returns the format in which it is requested."""

    def __new__(cls) -> _Dates:
        return super().__new__(cls, 2000, 1, 1)

    def strftime(self, pattern: str) -> str:
        """The format itself."""
        return f"\ufdd4{pattern}\ufdd5"


def _dated(fixed: str, now: datetime.datetime) -> str:
    return DATE.sub(lambda found: now.strftime(found[1]), fixed)


def _forms(fixed: tuple[str, ...]) -> Iterator[Form]:
    """All ways to strip, simplest first."""
    sides = [(False, False), (True, True), (True, False), (False, True)]
    number = len(fixed) - 1
    for strips_all in sides if number > 1 else sides[:1]:
        for strips in itertools.product(sides, repeat=number):
            yield Form(fixed, strips, strips_all)


def _check_fixed(template: ChatTemplate, form: Form) -> None:
    """Refuse what a graph could not do: unknown parts of dates, and special tokens that words and
    fixed text make together."""
    for fixed in form.fixed:
        for pattern in DATE.findall(fixed):
            if set(re.findall("%.", pattern)) - set(DATE_PARTS):
                raise NoPromptForm(f"it writes the time as {pattern!r}")
    tokens = [token for token in template.special_tokens if token]
    heads = {token[:i] for token in tokens for i in range(1, len(token))}
    tails = {token[i:] for token in tokens for i in range(1, len(token))}
    for before, behind in zip(form.fixed, form.fixed[1:], strict=False):
        if before.endswith(tuple(heads)) or behind.startswith(tuple(tails)):
            raise NoPromptForm("words and fixed text together could make a special token")
    if not all(form.fixed[1:-1]):
        raise NoPromptForm("words are next to others with nothing between")
    beginnings = {token[:i] for token in tokens for i in range(1, len(token))}
    for token in tokens:
        if any(token[i:] in beginnings for i in range(1, len(token))) or any(
            other in token[1:] for other in tokens
        ):
            raise NoPromptForm(f"the special token {token!r} overlaps with others")


def _probe_words(template: ChatTemplate) -> Iterator[str]:
    """Words that might make a template behave differently, including all strings in it."""
    yield from ("", " ", "a", "Two.\nLines!\n", "{{ 1 }}{% if %}", "\u200bx\u200b", "0", "None")
    yield f"{WHITE_SPACE}x{WHITE_SPACE}"
    constants = {
        node.value
        for node in Sandbox().parse(template.source).find_all(nodes.Const)
        if isinstance(node.value, str) and 0 < len(node.value) <= 200
    }
    for text in sorted(constants | set(template.special_tokens[:50])):
        yield from (text, f"{text} a", f"a {text}", f"a {text} b", text.strip())
