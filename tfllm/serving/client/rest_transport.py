"""The client's connection to a server over REST, with `http.client`."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np

from tfllm.serving.protocol.errors import HTTP_STATUS, ServingError
from tfllm.serving.protocol.tensor_json import NUMPY_TYPES

_TYPES = {
    "DT_FLOAT": "float",
    "DT_DOUBLE": "double",
    **{f"DT_{name.upper()}": name for name in NUMPY_TYPES if name not in ("float", "double")},
}

# HTTP status to canonical code; to the most common one if several codes have this status.
_CODE_OF_STATUS = {status: code for code, status in reversed(HTTP_STATUS.items())} | {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
}


_CLOSED_BY_SERVER = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Transport(Protocol):
    """A protocol that a client uses."""

    def predict(
        self, inputs: dict[str, Any], signature_name: str, signature: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Run a signature; returns output name to array."""

    def status(self) -> list[dict[str, Any]]:
        """The states of the model's versions."""

    def metadata(self) -> dict[str, Any]:
        """The signatures of the model."""

    def classify(
        self, examples: Sequence[Mapping[str, str]], signature_name: str
    ) -> list[list[tuple[str, float]]]:
        """The classes of each example, with their scores."""

    def chat_template(self) -> str | None:
        """The template for `ChatTemplate.from_json`; None if the server does not return it."""

    def close(self) -> None:
        """Close the connections."""


def array_dtype(signature: dict[str, Any], side: str, name: str) -> Any:
    """NumPy's type of an input or output; None if the signature does not give it."""
    info = signature.get(side, {}).get(name, {})
    return NUMPY_TYPES.get(_TYPES.get(info.get("dtype", ""), ""))


class RestTransport:
    """TensorFlow Serving's REST. There is a connection for each concurrent request; all stay open.

    Args:
        address: `host:port` or a URL. Defaults to 127.0.0.1:8501.
        model: the model's name.
        version: number of a version, or None.
        label: label of a version, or None.
        timeout: time limit of a request, in seconds.
    """

    def __init__(
        self,
        address: str | None,
        model: str,
        version: int | None,
        label: str | None,
        timeout: float,
    ) -> None:
        address = address or "127.0.0.1:8501"
        parts = urlsplit(address if "://" in address else f"http://{address}")
        try:
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(f"address must be host:port or a URL; received {address!r}") from None
        self._secure = parts.scheme == "https"
        self._address = address
        self._timeout = timeout
        self._path = f"{parts.path.rstrip('/')}/v1/models/{quote(model, safe='')}"
        self._model_path = self._path
        if version is not None:
            self._path += f"/versions/{version}"
        elif label is not None:
            self._path += f"/labels/{quote(label, safe='')}"
        self._idle: list[http.client.HTTPConnection] = []

    def predict(
        self, inputs: dict[str, Any], signature_name: str, signature: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Run a signature; returns output name to array.

        The inputs are sent by columns, so they may differ in dimension 0.
        """
        body = {
            "signature_name": signature_name,
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
        }
        reply = self._json("POST", ":predict", body)["outputs"]
        names = list(signature["outputs"])
        if len(names) == 1:
            reply = {names[0]: reply}
        return {
            name: _from_json(value, name, array_dtype(signature, "outputs", name))
            for name, value in reply.items()
        }

    def classify(
        self, examples: Sequence[Mapping[str, str]], signature_name: str
    ) -> list[list[tuple[str, float]]]:
        """The classes of each example, with their scores."""
        body = {"signature_name": signature_name, "examples": [dict(e) for e in examples]}
        results = self._json("POST", ":classify", body)["results"]
        return [[(str(label), float(score)) for label, score in row] for row in results]

    def status(self) -> list[dict[str, Any]]:
        """The states of the model's versions."""
        return [
            {
                "version": int(entry["version"]),
                "state": entry["state"],
                "error_code": entry.get("status", {}).get("error_code", "OK"),
                "error_message": entry.get("status", {}).get("error_message", ""),
            }
            for entry in self._json("GET", "")["model_version_status"]
        ]

    def metadata(self) -> dict[str, Any]:
        """The signatures of the model."""
        return self._json("GET", "/metadata")

    def chat_template(self) -> str | None:
        """The chat template, for `ChatTemplate.from_json`; only `tfllm serve` returns it."""
        status, content = self._exchange("GET", "/chat_template", None)
        return content.decode("utf-8", "replace") if status == 200 else None

    def events(self, method: str, body: dict[str, Any]) -> Iterator[str]:
        """Yield the data of server-sent events. Closing the generator closes the connection."""
        connection = self._connect()
        try:
            response = self._send(connection, "POST", f":{method}", json.dumps(body).encode())
            if response.status != 200:
                raise _error(response.status, response.read())
            if "text/event-stream" not in (response.getheader("content-type") or ""):
                raise ServingError("UNIMPLEMENTED", f"{self._address} has no live streams")
            for line in response:
                text = line.decode().rstrip("\r\n")
                if text.startswith("data:"):
                    yield text[5:].removeprefix(" ")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        while self._idle:
            self._idle.pop().close()

    def _json(self, method: str, what: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        status, content = self._exchange(method, what, data)
        if status != 200:
            raise _error(status, content)
        try:
            # A control character or a partial UTF-8 character must not lose the rest of a text.
            return json.loads(content.decode("utf-8", "replace"), strict=False)
        except ValueError as error:
            raise ServingError(
                "INTERNAL", f"{self._address} answered with something that is not JSON: {error}"
            ) from None

    def _exchange(self, method: str, what: str, data: bytes | None) -> tuple[int, bytes]:
        """Send a request, on a new connection if the server has closed the one that was kept."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            kept = connection.sock is not None
            try:
                response = self._send(connection, method, what, data)
                reply = response.status, response.read()
            except BaseException as error:
                connection.close()
                if kept and isinstance(error, _CLOSED_BY_SERVER):
                    continue
                if isinstance(error, OSError | http.client.HTTPException):
                    raise self._unreachable(error) from None
                raise
            self._idle.append(connection)
            return reply

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, what: str, data: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, self._path + what, data, headers)
        except (BrokenPipeError, ConnectionResetError):
            # A server may refuse a long body before it has read all of it, and reply why.
            if data is None or len(data) < 1 << 16:
                raise
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> ServingError:
        if isinstance(error, ConnectionRefusedError):
            return ServingError(
                "UNAVAILABLE",
                f"no server answers at {self._address}: start one with `tfllm serve saved_models`, "
                "or give the address of one (the default port of REST is 8501)",
            )
        if isinstance(error, TimeoutError):
            return ServingError(
                "DEADLINE_EXCEEDED",
                f"{self._address} did not answer within {self._timeout:g} s (timeout)",
            )
        return ServingError(
            "UNAVAILABLE", f"{self._address} cannot be reached: {type(error).__name__}: {error}"
        )


def _error(status: int, content: bytes) -> ServingError:
    text = content.decode("utf-8", "replace").strip()
    try:
        message = json.loads(text)["error"]
    except (ValueError, TypeError, KeyError):
        # An HTML page is not from the API, but from the HTTP server or a proxy.
        words = " ".join(re.sub(r"<[^>]*>", " ", text).split()) if text.startswith("<") else text
        message = f"HTTP status {status}: {words[:1000] or 'no message'}"
    code = _CODE_OF_STATUS.get(status, "UNKNOWN")
    return ServingError(code, str(message), http_status=status)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray | np.generic):
        return _to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if hasattr(value, "numpy"):  # a tensor
        return _to_json(np.asarray(value.numpy()))
    return value


def _from_json(value: Any, name: str, dtype: Any) -> np.ndarray:
    if dtype is not np.object_:
        return np.asarray(value, dtype)
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    flat = [value]
    for _ in shape:
        flat = [item for items in flat for item in items]
    array = np.empty(len(flat), np.object_)
    array[:] = [base64.b64decode(i["b64"]) if isinstance(i, dict) else i for i in flat]
    return array.reshape(shape)
