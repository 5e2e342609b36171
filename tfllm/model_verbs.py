"""Methods of models that need packages above `models`, such as generating text.

Packages only import from below, so a model cannot import what decodes it. `tfllm/__init__.py`
registers here where each function is, and a model calls it by name.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES: dict[str, str] = {}


def provide(verb: str, module: str) -> None:
    """Register the module of the function called `verb`, which is imported on first use."""
    _PLACES[verb] = module


def call(verb: str, *arguments: Any, **options: Any) -> Any:
    """Call the function registered for a verb."""
    return getattr(importlib.import_module(_PLACES[verb]), verb)(*arguments, **options)
