"""What model objects can do that needs rooms above `models`, such as generating text.

Imports run downwards, so that a model cannot import what decodes it. The package's front door says
here where each verb lives, and a model asks for it by name.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES: dict[str, str] = {}


def provide(verb: str, module: str) -> None:
    """Say which module has the function called `verb`; it is imported when it is first used."""
    _PLACES[verb] = module


def call(verb: str, *arguments: Any, **options: Any) -> Any:
    """Call the function of a verb."""
    return getattr(importlib.import_module(_PLACES[verb]), verb)(*arguments, **options)
