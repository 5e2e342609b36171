"""Models that have shapes but no weights."""

from __future__ import annotations

from typing import Any

import keras

from tfllm.keras_internals import no_variables_waiting


def without_values(model_class: Any, *arguments: Any, **options: Any) -> Any:
    """A model whose weights have shapes, dtypes and names, but no values and no memory.

    Args:
        model_class: class of the model.
        arguments: positional arguments of the constructor.
        options: keyword arguments of the constructor.
    """
    with no_variables_waiting(), keras.StatelessScope(initialize_variables=False):
        return model_class(*arguments, **options)
