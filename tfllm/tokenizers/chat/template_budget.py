"""Limits on what a chat template may use: steps, characters and items, and time."""

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
_MADE = 4_000_000  # characters and items, in everything that is computed
_MADE_OF_INPUT = 100  # additional ones for each character of the conversation


class TemplateTooExpensive(jinja2.TemplateError):
    """The template exceeded its limits."""


class Budget:
    """How much of its limits a template has used.

    Args:
        input_size: Number of characters of its input.
    """

    def __init__(self, input_size: int) -> None:
        self._steps = 0
        self._made = 0
        self._most_made = _MADE + _MADE_OF_INPUT * input_size
        self._end = time.thread_time() + MOST_SECONDS

    def step(self) -> None:
        """Count an iteration of a loop, a call or an operator."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TemplateTooExpensive(f"it had not ended after {MOST_STEPS:,} steps")
        if self._steps % 16 == 0 and time.thread_time() > self._end:
            raise TemplateTooExpensive(f"it had not ended after {MOST_SECONDS:g} seconds")

    def make(self, size: int) -> None:
        """Count new characters or items."""
        self._made += size
        if self._made > self._most_made:
            raise TemplateTooExpensive(
                f"it produces more than {self._most_made:,} characters and items"
            )

    def weigh_new(self, value: Any, *, nested: bool = True) -> None:
        """Count a new value. If not `nested`, its items existed before, and each is in it once."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, list | tuple | dict):
            if nested:
                self.weigh(value)
            else:
                self.make(len(value))

    def weigh(self, value: Any) -> None:
        """Count a value by the size of its text: what is in it twice counts twice."""
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
    """Refuse `"%999999999d"`, and computed widths."""
    if re.search(r"\d{4}|%[^a-zA-Z%]*\*", text):
        raise TemplateTooExpensive(f"a width is too large or computed in {text[:80]!r}")


def check_braces_format(text: str) -> None:
    """Refuse `"{:999999999}"`, and computed widths."""
    if re.search(r"\d{4}|\{[^{}]*\{", text):
        raise TemplateTooExpensive(f"a width is too large or computed in {text[:80]!r}")


def check_date_format(pattern: str) -> None:
    """Refuse `"%999999999d"` as a date format."""
    if len(pattern) > 100 or re.search(r"%[^a-zA-Z%]*\d", pattern):
        raise TemplateTooExpensive(f"a date format must be plain; received {pattern[:80]!r}")


def check_method(budget: Budget, text: str, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check that the result of a string method is within the limits, and return its arguments."""
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
