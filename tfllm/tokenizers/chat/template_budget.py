"""What a chat template may use up: steps, characters and items, and time."""

from __future__ import annotations

import re
import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

import jinja2
from jinja2.utils import Namespace

MOST_SECONDS = 1.5
MOST_STEPS = 300_000
MOST_BITS = 4096
"""of a number"""
_MADE = 4_000_000  # characters and items, in all that is computed on the way
_MADE_OF_INPUT = 100  # times the conversation's own characters


class TemplateTooExpensive(jinja2.TemplateError):
    """The template did not end within its bounds."""


class Budget:
    """What a template has used of its bounds.

    Args:
        input_size: characters of what it is given.
    """

    def __init__(self, input_size: int) -> None:
        self._steps = 0
        self._made = 0
        self._most_made = _MADE + _MADE_OF_INPUT * input_size
        self._end = time.thread_time() + MOST_SECONDS

    def step(self) -> None:
        """Another turn of a loop, call or operator."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TemplateTooExpensive(f"it had not ended after {MOST_STEPS:,} steps")
        if self._steps % 16 == 0 and time.thread_time() > self._end:
            raise TemplateTooExpensive(f"it had not ended after {MOST_SECONDS:g} seconds")

    def make(self, size: int) -> None:
        """So many characters or items more."""
        self._made += size
        if self._made > self._most_made:
            raise TemplateTooExpensive(
                f"it makes more than {self._most_made:,} characters and items on its way"
            )

    def weigh_new(self, value: Any, *, nested: bool = True) -> None:
        """Counts what was just made; not `nested`: its items were there, and each is in it once."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, list | tuple | dict):
            if nested:
                self.weigh(value)
            else:
                self.make(len(value))

    def weigh(self, value: Any) -> None:
        """Counts a value as its text would have it: what is in it twice counts twice."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                self.make(len(item) + 1)
                continue
            self.make(8)
            if isinstance(item, Namespace):
                item = item._Namespace__attrs
            if isinstance(item, Mapping):
                waiting += item.keys()
                waiting += item.values()
            elif isinstance(item, list | tuple | set | KeysView | ValuesView | ItemsView):
                waiting += item


def check_percent_format(text: str) -> None:
    """Refuse `"%999999999d"`, and a width that is computed."""
    if re.search(r"\d{4}|%[^a-zA-Z%]*\*", text):
        raise TemplateTooExpensive(f"a width is too large or computed in {text[:80]!r}")


def check_braces_format(text: str) -> None:
    """Refuse `"{:999999999}"`, and a width that is computed."""
    if re.search(r"\d{4}|\{[^{}]*\{", text):
        raise TemplateTooExpensive(f"a width is too large or computed in {text[:80]!r}")


def check_date_format(pattern: str) -> None:
    """Refuse `"%999999999d"` as the form of a date."""
    if len(pattern) > 100 or re.search(r"%[^a-zA-Z%]*\d", pattern):
        raise TemplateTooExpensive(f"a date's form must be plain; received {pattern[:80]!r}")


def check_method(budget: Budget, text: str, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a string's method, once what it makes is known to be within bounds."""
    if method in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        budget.make(args[0])
    elif method == "replace" and len(args) > 1:
        budget.make(text.count(str(args[0])) * len(str(args[1])))
    elif method == "join" and args:
        items = list(args[0])
        budget.make(len(text) * len(items))
        budget.weigh(items)
        args = (items,)
    return args
