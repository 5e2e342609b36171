"""Generation options as inputs of a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.generation.options import OPTION_TYPES, option_values

OPTION_DTYPES: dict[str, tf.DType] = {n: tf.as_dtype(t) for n, t in OPTION_TYPES.items()}
"""The options of the `generate` signature, each of shape [batch]."""


def option_specs(batch: int | None = None) -> list[tf.TensorSpec]:
    """The tensor spec of each option's input, named after the option."""
    return [tf.TensorSpec([batch], dtype, name) for name, dtype in OPTION_DTYPES.items()]


def option_tensors(config: GenerationConfig, batch: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """The inputs for one configuration, which is the same in each row of a batch."""
    values = option_values(config)
    return {n: tf.fill([batch], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()}


def row_tensors(configs: Sequence[GenerationConfig]) -> dict[str, tf.Tensor]:
    """The inputs for rows with a configuration each."""
    values = [option_values(config) for config in configs]
    return {n: tf.constant([v[n] for v in values], t) for n, t in OPTION_DTYPES.items()}


def function_of_inputs(
    function: Callable[..., dict[str, tf.Tensor]],
    specs: Sequence[tf.TensorSpec],
    defaults: Mapping[str, tf.Tensor] | None = None,
) -> Any:
    """A `tf.function` whose inputs have the names, types and shapes of `specs`.

    Args:
        function: Function that is called with a tensor for each spec, by its name; it may take
            them as `**options`.
        specs: Named specs. A SavedModel's signature has the same names.
        defaults: Default values of optional inputs, by name. TensorFlow writes them into the
            signature's SignatureDef. Defaults to none.
    """
    names = [spec.name for spec in specs]

    def named(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return function(**dict(zip(names, inputs, strict=True)))

    given, kind = defaults or {}, inspect.Parameter.POSITIONAL_OR_KEYWORD
    # TensorFlow names the inputs of a signature after the parameters of its function.
    named.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, kind, default=given.get(name, inspect.Parameter.empty))
            for name in names
        ]
    )
    return tf.function(named, input_signature=list(specs), autograph=False)
