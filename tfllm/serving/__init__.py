"""A model as a service: export, check, server, client and deployment files.

The names are imported on first use, so that a client does not import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfllm.lazy_names import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__)

if TYPE_CHECKING:  # the names, for type checkers and for `lazy_names`
    from tfllm.serving.checks.checking import check as check
    from tfllm.serving.checks.report import CheckReport as CheckReport
    from tfllm.serving.client.client import Client as Client
    from tfllm.serving.deployment import write_deployment_files as write_deployment_files
    from tfllm.serving.exporting import export as export
    from tfllm.serving.protocol.errors import GenerationError as GenerationError
    from tfllm.serving.protocol.errors import ServingError as ServingError
    from tfllm.serving.server.server import ModelServer as ModelServer
