"""Models of which there are shapes alone."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common import global_state


def without_values(model_class: Any, *arguments: Any, **options: Any) -> Any:
    """A model whose weights have shapes, dtypes and names, but no values and no memory.

    Args:
        model_class: its class.
        arguments: of the constructor.
        options: of the constructor.
    """
    # Keras keeps a list of variables without values and would give them some at the next symbolic
    # call of any model.
    waiting = global_state.get_global_attribute("uninitialized_variables", [])
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            return model_class(*arguments, **options)
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)
