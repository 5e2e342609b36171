"""Decorator for methods that run in a graph: declares the names and types of their inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfllm.generation.option_inputs import function_of_inputs


class GraphMethod:
    """A method as a `tf.function`, created once per object, on first access.

    So Python and a SavedModel use the same function, which is called like any other method.

    Args:
        method: method that takes a tensor for each spec, by name; it may take them as `**options`.
        specs: specs of the inputs, each with a name.
    """

    def __init__(
        self, method: Callable[..., dict[str, tf.Tensor]], specs: tuple[tf.TensorSpec, ...]
    ) -> None:
        self._method = method
        self._specs = specs
        functools.update_wrapper(self, method)  # type: ignore[arg-type]

    def __get__(self, holder: Any, owner: type | None = None) -> Any:
        """The `tf.function` for an object."""
        if holder is None:
            return self
        function = function_of_inputs(self._method.__get__(holder), self._specs)
        vars(holder)[self._method.__name__] = function  # found first from now on
        return function


def graph_method(*specs: tf.TensorSpec) -> Callable[[Callable[..., Any]], GraphMethod]:
    """Make a method a `GraphMethod` with inputs of these specs, such as `text_input("prompt")`."""
    return lambda method: GraphMethod(method, specs)


def text_input(name: str, batch: int | None = None) -> tf.TensorSpec:
    """Spec of a text input, string `[batch]`."""
    return tf.TensorSpec([batch], tf.string, name)
