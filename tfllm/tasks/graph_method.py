"""Methods that run in a graph, each with the names and types of its inputs above it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfllm.generation.option_inputs import function_of_inputs


class GraphMethod:
    """A method as a `tf.function`, which is made once for each object, when it is first asked for.

    So what Python calls and what a SavedModel holds are one function, and a call of it reads, and
    is found, as that of any other method.

    Args:
        method: takes a tensor for each spec, by its name; it may take them as `**options`.
        specs: of the inputs, named.
    """

    def __init__(
        self, method: Callable[..., dict[str, tf.Tensor]], specs: tuple[tf.TensorSpec, ...]
    ) -> None:
        self._method = method
        self._specs = specs
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, holder: Any, owner: type | None = None) -> Any:
        """The `tf.function` of an object."""
        if holder is None:
            return self
        function = function_of_inputs(self._method.__get__(holder), self._specs)
        vars(holder)[self._method.__name__] = function  # which is found there from now on
        return function


def graph_method(*specs: tf.TensorSpec) -> Callable[[Callable[..., Any]], GraphMethod]:
    """Make a method a `GraphMethod` of inputs with these specs, such as `text_input("prompt")`."""
    return lambda method: GraphMethod(method, specs)


def text_input(name: str, batch: int | None = None) -> tf.TensorSpec:
    """The input of that name: string `[batch]`."""
    return tf.TensorSpec([batch], tf.string, name)
