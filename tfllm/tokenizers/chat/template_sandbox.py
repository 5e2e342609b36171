"""Run a chat template that came with a model: set up as in `transformers`, and with limits.

A template is a program by somebody else. jinja2's sandbox keeps it away from Python's internals,
but does not stop it from looping forever or filling the memory. So each iteration of a loop, each
call, each operator and each new piece of text is counted here, and operations that could make
something huge at once (`"a" * 10**9`) are refused before they run.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from tfllm.tokenizers.chat.template_budget import (
    MOST_BITS,
    Budget,
    TemplateTooExpensive,
    check_braces_format,
    check_date_format,
    check_method,
    check_percent_format,
)
from tfllm.tokenizers.chat.template_filters import (
    BOUNDED_FILTERS,
    CONTAINER_METHODS,
    MAKE_TEXT,
    STRING_METHODS,
)

LEARN_FROM, LEARN_TO = "\ufdd1", "\ufdd2"
"""Marks around `{% generation %}` blocks if `marking` is on: noncharacters, which no text has."""

MOST_SOURCE = 1 << 20
"""maximum number of characters of a template"""


def now() -> datetime.datetime:
    """The current time for templates: in UTC, so that client and server have the same day."""
    return datetime.datetime.now(datetime.timezone.utc)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with limits, and with the names that chat templates expect.

    Raises (when a template is compiled or runs):
        jinja2.TemplateError: If the template is invalid, uses something that is not allowed, or
            exceeds the limits; or if it refuses its input with `raise_exception`.
    """

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # otherwise constants would be computed before counting begins
        )
        self._run = threading.local()
        self.globals = {
            **{name: self.globals[name] for name in ("range", "cycler", "joiner")},
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }
        self.filters = {name: self._bounded(name, f) for name, f in BOUNDED_FILTERS.items()}
        for name in ("_written", "_weighed", "_stepped"):
            self.filters[name] = getattr(self, name)

    # ------------------------------------------------------------------ counting

    @contextlib.contextmanager
    def running(
        self, input_size: int, now: datetime.datetime, *, marking: bool = False
    ) -> Iterator[None]:
        """Start counting for the template that runs inside the block.

        Args:
            input_size: Number of characters of its input.
            now: Current time for the template.
            marking: Whether `{% generation %}` leaves its marks. Defaults to False.
        """
        self._run.budget = Budget(input_size)
        self._run.now, self._run.marking = now, marking
        try:
            yield
        finally:
            self._run.__dict__.clear()

    @property
    def marking(self) -> bool:
        """Whether `{% generation %}` leaves its marks."""
        return self._run.marking

    @property
    def budget(self) -> Budget:
        """The budget of the template that runs in this thread."""
        return self._run.budget

    @jinja2.pass_context
    def _written(self, _: Context, value: Any) -> str:
        budget = self.budget
        if isinstance(value, str):
            budget.make(len(value))
            return value
        budget.weigh(value)
        return str(value)

    @jinja2.pass_context
    def _weighed(self, _: Context, value: Any) -> Any:
        self.budget.weigh(value)
        return value

    @jinja2.pass_context
    def _stepped(self, _: Context, value: Any) -> Iterable[Any]:
        budget = self.budget
        steps = _Steps(value)
        steps.budget = budget
        budget.make(len(steps))
        return steps

    def _strftime_now(self, pattern: str) -> str:
        check_date_format(pattern)
        return self._run.now.strftime(pattern)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Instrumented().visit(source), *args, **kwargs)

    # ------------------------------------------------------------------ what may run

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow attributes of the types that templates are made for, and of no others."""
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, Mapping | list | tuple):
            return attr in CONTAINER_METHODS
        kinds = Namespace | LoopContext | Macro | Cycler | Joiner | jinja2.runtime.TemplateReference
        return isinstance(obj, kinds) and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Raise an error at once; jinja2 would wait until the value is used."""
        raise jinja2.sandbox.SecurityError(
            f"it may not use the attribute {attribute!r} of a value of type {type(obj).__name__}"
        )

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`"...".format`, with limits."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            text = value.__self__
            check_braces_format(text)
            self.budget.weigh([*args, kwargs] * (text.count("{") + 1))
            return wrapped(*args, **kwargs)

        return bounded

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a call that a template makes."""
        budget = __self.budget
        budget.step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = check_method(budget, owner, __obj.__name__, args)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.weigh_new(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply one of + - * / // ** %."""
        budget = self.budget
        budget.step()
        if operator == "*":
            for items, times in ((left, right), (right, left)):
                if isinstance(items, str | list | tuple) and isinstance(times, int):
                    budget.make(len(items) * max(times, 0))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if right > MOST_BITS or left.bit_length() * right > MOST_BITS:
                raise TemplateTooExpensive(f"a power with the exponent {right} is too large")
        elif operator == "%" and isinstance(left, str):
            check_percent_format(left)
            budget.weigh([right] * (left.count("%") + 1))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > MOST_BITS:
            raise TemplateTooExpensive(f"a number has more than {MOST_BITS} bits")
        budget.weigh_new(result, nested=operator == "*")
        return result

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            budget.step()
            value = args[place]
            if not isinstance(value, str) and name in MAKE_TEXT:
                if isinstance(value, Iterator):  # from `map` and similar filters
                    value = list(value)
                    args = (*args[:place], value, *args[place + 1 :])
                budget.weigh(value)
            result = function(*args, **kwargs)
            budget.weigh_new(result, nested=False)
            return result

        # The context or the environment comes before the value that is filtered.
        place = int(jinja2.utils._PassArg.from_obj(function) is not None)
        return bounded


class _Steps(list):
    """The items of a loop, counted as steps."""

    budget: Budget

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.budget.step()
            yield item


class _Instrumented(NodeTransformer):
    """Inserts the counters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("_stepped", _expression(node.iter))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_through("_written", _expression(child)) for child in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        self.generic_visit(node)
        node.nodes = [_through("_written", child) for child in node.nodes]
        return node

    def visit_List(self, node: Any) -> Any:
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return _through("_weighed", node)

    visit_Tuple = visit_Dict = visit_List


def _expression(node: nodes.Node) -> nodes.Expr:
    if isinstance(node, nodes.TemplateData):
        return nodes.Const(node.data, lineno=node.lineno)
    assert isinstance(node, nodes.Expr)
    return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, which mark the assistant's words."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body, lineno=line)

    def _mark(self, caller: Callable[[], str]) -> str:
        text = caller()
        marking = self.environment.marking  # type: ignore[attr-defined]
        return f"{LEARN_FROM}{text}{LEARN_TO}" if marking else text


class _Namespace(Namespace):
    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may name an attribute "self"
        self, *rest = args
        for name in dict(*rest, **kwargs):
            _check_attribute(name)
        Namespace.__init__(self, *rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: str) -> None:
    if str(name).startswith("_"):
        raise jinja2.sandbox.SecurityError(f"it may not set the attribute {name!r} of a namespace")


class Refusal(jinja2.TemplateError):
    """An error that a template raises itself."""


def _raise_exception(message: str) -> None:
    raise Refusal(str(message))
