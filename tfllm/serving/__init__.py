"""A model as a service: export, check, server, client and deployment files.

The names load on first use: a client needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "CheckReport": "check_report",
    "Client": "client",
    "ModelServer": "server",
    "GenerationError": "errors",
    "ServingError": "errors",
    "check": "checking",
    "export": "exporting",
    "write_deployment_files": "deployment",
}
__all__ = [
    "CheckReport",
    "Client",
    "GenerationError",
    "ModelServer",
    "ServingError",
    "check",
    "export",
    "write_deployment_files",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"tfllm.serving.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'tfllm.serving' has no attribute {name!r}")


if TYPE_CHECKING:
    from tfllm.serving.check_report import CheckReport
    from tfllm.serving.checking import check
    from tfllm.serving.client import Client
    from tfllm.serving.deployment import write_deployment_files
    from tfllm.serving.errors import GenerationError, ServingError
    from tfllm.serving.exporting import export
    from tfllm.serving.server import ModelServer
