"""The filters and methods that chat templates may use: those whose results can be limited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2.filters import FILTERS, do_indent, do_join, do_round

from tfllm.tokenizers.chat.template_budget import TemplateTooExpensive, check_percent_format


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_JINJA2 = _names(
    "abs attr capitalize count d default dictsort e escape first float groupby int items last "
    "length list lower map max min reject rejectattr reverse safe select selectattr sort string "
    "title trim truncate unique upper urlencode wordcount"
)
# Filters whose result is at most a few times as large as their input.

MAKE_TEXT = _names(
    "capitalize e escape format indent join lower replace safe string title tojson trim truncate "
    "upper urlencode wordcount"
)
"""filters that convert their input to text"""

STRING_METHODS = _names(
    "capitalize casefold center count endswith find format format_map index isalnum isalpha "
    "isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper "
    "join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
    "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
)
CONTAINER_METHODS = _names("copy count get grouper index items keys list values")
"""`grouper` and `list` are attributes of the results of the filter groupby."""


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` as in `transformers`: jinja2's own would escape characters for HTML."""
    if indent is not None and not (isinstance(indent, int) and indent <= 16):
        raise TemplateTooExpensive(f"an indent must be at most 16; received {indent!r}")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (len(width) if isinstance(width, str) else width) > 64:
        raise TemplateTooExpensive(f"an indent must be at most 64; received {str(width)[:80]!r}")
    return do_indent(text, width, first, blank)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 32:
        raise TemplateTooExpensive(f"a number is rounded to at most 32 places, not {precision}")
    return do_round(value, precision, method)


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    check_percent_format(str(text))
    return str(text) % (kwargs or args)


def _sum(values: Iterable[Any]) -> Any:
    items = list(values)
    if not all(isinstance(item, int | float) for item in items):
        raise jinja2.TemplateRuntimeError("sum takes numbers")
    return sum(items)


@jinja2.pass_eval_context
def _join(context: Any, values: Any, between: str = "", attribute: Any = None) -> str:
    items = list(values)
    context.environment.budget.make(len(str(between)) * len(items))
    return do_join(context, items, between, attribute)


@jinja2.pass_environment
def _replace(environment: Any, text: Any, old: Any, new: Any, count: int | None = None) -> str:
    environment.budget.make(str(text).count(str(old)) * len(str(new)))
    return str(text).replace(str(old), str(new), -1 if count is None else count)


BOUNDED_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: FILTERS[name] for name in sorted(_OF_JINJA2)},
    "tojson": _tojson,
    "indent": _indent,
    "round": _round,
    "format": _format,
    "sum": _sum,
    "join": _join,
    "replace": _replace,
}
