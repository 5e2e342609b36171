"""A model as a service: export, check, server, client and deployment files.

The names load on first use: a client needs no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "CheckReport": "checks.report",
    "Client": "client.client",
    "ModelServer": "server.server",
    "GenerationError": "protocol.errors",
    "ServingError": "protocol.errors",
    "check": "checks.checking",
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
    from tfllm.serving.checks.checking import check
    from tfllm.serving.checks.report import CheckReport
    from tfllm.serving.client.client import Client
    from tfllm.serving.deployment import write_deployment_files
    from tfllm.serving.exporting import export
    from tfllm.serving.protocol.errors import GenerationError, ServingError
    from tfllm.serving.server.server import ModelServer
