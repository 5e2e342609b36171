"""Import the names of a package when they are first used.

So `import tfllm`, `tfllm --help` and the client of a server do not wait for TensorFlow. A package
lists its names once, as imports that only type checkers run:

    __all__, __getattr__, __dir__ = lazy_names(__name__)

    if TYPE_CHECKING:
        from tfllm.training.training_run import train as train
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def lazy_names(
    package: str, packages: Sequence[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: Name of the package.
        packages: Subpackages that are attributes without being imported. Defaults to none.
    """
    places = _places(Path(str(sys.modules[package].__file__)))

    def get(name: str) -> Any:
        if name in places:
            found = getattr(importlib.import_module(places[name]), name)
            setattr(sys.modules[package], name, found)
            return found
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    names = sorted(places)
    return names, get, lambda: sorted([*names, *packages])


def _places(path: Path) -> dict[str, str]:
    """The module of each name in the imports that only type checkers run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        alias.name: str(node.module)
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
