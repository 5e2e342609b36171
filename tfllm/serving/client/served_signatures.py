"""What a client knows of a served model's signatures."""

from __future__ import annotations

import base64
from typing import Any

from tfllm.config import unknown_name
from tfllm.generation.options import exported_options
from tfllm.serving.client.rest_transport import Transport
from tfllm.serving.protocol.errors import ServingError


class ServedSignatures:
    """The signatures of a served model, from its metadata.

    The server is asked once. A newer version of the model may have other signatures, so it is
    asked again for a name that is not among those that are known.

    Args:
        transport: the connection to the server.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: dict[str, Any] | None = None

    def __contains__(self, name: str) -> bool:
        """Whether the model had this signature when the server was last asked."""
        return name in (self._known or {})

    def get(self, name: str) -> dict[str, Any]:
        """The definition of a signature: its `inputs`, `outputs` and `defaults`.

        Raises:
            ServingError: there is no such signature or model, or the server does not answer.
        """
        if self._known is None or name not in self._known:
            document = self._transport.metadata()["metadata"]["signature_def"]["signature_def"]
            # The initialiser of the graph is listed as a signature and cannot be called.
            self._known = {k: v for k, v in document.items() if not k.startswith("__")}
        if name not in self._known:
            raise ServingError("INVALID_ARGUMENT", unknown_name("signature", name, self._known))
        return self._known[name]

    def generation_options(self) -> dict[str, Any]:
        """The options of generation that the model was exported with, as far as it says so."""
        values: dict[str, Any] = {}
        for name, tensor in self.get("generate").get("defaults", {}).items():
            if numbers := tensor.get("int_val") or tensor.get("float_val"):
                values[name] = numbers[0]
            elif texts := tensor.get("string_val"):
                values[name] = base64.b64decode(texts[0]).decode("utf-8", "replace")
        return exported_options(values)
