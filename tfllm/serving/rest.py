"""TensorFlow Serving's REST as an ASGI application; beside it `:stream` and `/chat_template`."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote

import numpy as np

from tfllm.serving.batching import RequestLimit
from tfllm.serving.classify import classify, read_classify, write_classify
from tfllm.serving.errors import ServingError, from_exception, invalid_argument
from tfllm.serving.json_reply import write_error, write_predict
from tfllm.serving.metrics import Metrics
from tfllm.serving.model_config import MAX_VERSION
from tfllm.serving.repository import Repository
from tfllm.serving.servable import DEFAULT_SIGNATURE, Prediction, Servable
from tfllm.serving.stream import TextStream, read_stream_request
from tfllm.serving.tensor_json import TensorInfo, read_json, read_predict

log = logging.getLogger("tfllm.serving")

METRICS_PATH = "/monitoring/prometheus/metrics"

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL + r":(?P<method>classify|regress|predict|stream)", re.I | re.A)
_LOOK = re.compile(_MODEL + r"(?P<what>/metadata|/chat_template)?", re.I | re.A)

# A body over the limit is read on and thrown away, up to here, because a client that is cut off
# while it sends never sees the answer that says why.
_DRAIN_BYTES = 1 << 30
_DRAIN_SECONDS = 20.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Disconnected(Exception):
    """The client went before its request was whole."""


class RestApp:
    """Answers HTTP. Models run in `executor`, so the event loop stays free.

    Args:
        repository: the models.
        metrics: where requests are counted.
        executor: threads for the blocking calls, one for each request that runs or waits.
        limit: requests under way, over REST and gRPC together.
        max_body_bytes: longest request body; a longer one gets 413.
        timeout_seconds: longest that a `:predict` or `:classify` may take; then 504.
            None: no limit.
        max_streams: live streams at once; one more gets 429.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        executor: Executor,
        limit: RequestLimit,
        *,
        max_body_bytes: int,
        timeout_seconds: float | None,
        max_streams: int,
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._executor = executor
        self._limit = limit
        self._max_body = max_body_bytes
        self._timeout = timeout_seconds
        self._streams = RequestLimit(
            max_streams,
            "RESOURCE_EXHAUSTED",
            f"{max_streams} live streams are running, which is the most; try again later",
        )

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        model, api, code = "", "", "OK"
        try:
            path = scope["raw_path"].decode("latin-1")
            method = scope["method"]
            if method == "GET" and path == METRICS_PATH:
                page = self._metrics.page().encode()
                await _reply(send, 200, page, "text/plain; version=0.0.4")
                return
            if not re.match("/v1/", path, re.I):
                raise ServingError("NOT_FOUND", f"Not found: {method} {path}; see /v1/models/NAME")
            call = _CALL.fullmatch(path) if method == "POST" else None
            look = _LOOK.fullmatch(path) if method == "GET" else None
            if call is not None:
                model, api = unquote(call["name"]), call["method"].lower()
                await self._call(api, _model_spec(call), scope, receive, send)
            elif look is not None:
                model = unquote(look["name"])
                await _reply(send, 200, self._look(look))
            elif method == "GET" and path.lower() == "/v1/models":
                raise invalid_argument("Missing model name in request.")
            else:
                raise invalid_argument(f"Malformed request: {method} {path}")
        except _Disconnected:
            code = "CANCELLED"
        except ServingError as error:
            code = error.code
            await _reply(send, error.http_status, write_error(error.message))
        except Exception as error:
            log.exception("a request failed")
            code = "INTERNAL"
            await _reply(send, 500, write_error(from_exception(error).message))
        if model:
            # Names that are not served come from clients and would grow the page without end.
            known = "" if code == "NOT_FOUND" else model
            seconds = time.perf_counter() - start
            self._metrics.request(known, api.capitalize(), "REST", code, seconds)

    # -------------------------------------------------------------- predict

    async def _call(
        self,
        api: str,
        spec: dict[str, Any],
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        body = await self._read_body(scope, receive)
        if api == "regress":
            raise ServingError(
                "UNIMPLEMENTED", ":regress is not implemented by this server; use :predict"
            )
        if api == "stream":
            await self._stream(spec, body, receive, send)
            return
        loop = asyncio.get_running_loop()
        with ExitStack() as held:
            held.enter_context(self._limit.hold())
            answer = self._classify if api == "classify" else self._predict
            future = loop.run_in_executor(self._executor, answer, spec, body)
            # A run that outlives its request still takes its place, until it ends.
            release = held.pop_all()
            future.add_done_callback(lambda _: release.close())
        try:
            reply = await asyncio.wait_for(asyncio.shield(future), self._timeout)
        except (TimeoutError, asyncio.TimeoutError):
            future.add_done_callback(lambda f: f.exception())  # nobody waits for it any more
            raise ServingError(
                "DEADLINE_EXCEEDED",
                f"the request took longer than the server's limit of {self._timeout:g} s",
            ) from None
        await _reply(send, 200, reply)

    def _predict(self, spec: dict[str, Any], body: bytes) -> bytes:
        with self._repository.acquire(**spec) as servable:
            request = read_predict(body, lambda name: _signature_inputs(servable, name))
            signature = servable.signature(request.signature_name)
            prediction = signature.predict(request.inputs)
            record_prediction(self._metrics, servable.name, signature.name, prediction)
            return write_predict(prediction.outputs, request.by_rows)

    def _classify(self, spec: dict[str, Any], body: bytes) -> bytes:
        with self._repository.acquire(**spec) as servable:
            classes = classify(servable, read_classify(body))
            record_prediction(self._metrics, servable.name, classes.signature, classes.prediction)
            return write_classify(classes)

    # -------------------------------------------------------------- stream

    async def _stream(
        self, spec: dict[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        document, _ = read_json(body)
        prompt, options = read_stream_request(document)
        with self._streams.hold(), self._repository.acquire(**spec) as servable:
            stream = await loop.run_in_executor(
                self._executor, TextStream, servable, prompt, options
            )
            gone = asyncio.ensure_future(_wait_for_disconnect(receive))
            try:
                await _start(send, 200, "text/event-stream")
                await self._send_pieces(stream, servable.name, gone, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()

    async def _send_pieces(
        self, stream: TextStream, model: str, gone: asyncio.Future, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        pieces = stream.pieces()

        async def event(data: str) -> None:
            chunk = f"data: {data}\n\n".encode("utf-8", "replace")
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

        try:
            while not gone.done():
                piece = await loop.run_in_executor(self._executor, next, pieces, None)
                if piece is None:
                    summary = stream.summary()
                    await event(json.dumps(summary))
                    self._metrics.tokens(model, "prompt", summary["prompt_tokens"])
                    self._metrics.tokens(model, "generated", summary["generated_tokens"])
                    break
                if piece:
                    await event(json.dumps({"text": piece}, ensure_ascii=False))
        except ServingError as error:  # the status line is out; the stream itself says it
            await event(json.dumps({"error": error.message}, ensure_ascii=False))
        if not gone.done():
            await event("[DONE]")

    # -------------------------------------------------------------- status, metadata

    def _look(self, look: re.Match[str]) -> bytes:
        spec = _model_spec(look)
        if (look["what"] or "").lower() == "/chat_template":
            with self._repository.acquire(**spec) as servable:
                if servable.chat_template is None:
                    raise ServingError("NOT_FOUND", f"model {spec['name']} has no chat template")
                return servable.chat_template.encode()
        if not look["what"]:
            statuses = self._repository.status(spec["name"], spec["version"])
            return json.dumps(
                {
                    "model_version_status": [
                        {
                            "version": str(status.version),
                            "state": status.state,
                            "status": {
                                "error_code": status.error_code,
                                "error_message": status.error_message,
                            },
                        }
                        for status in statuses
                    ]
                },
                indent=1,
            ).encode()
        from google.protobuf.json_format import MessageToDict

        with self._repository.acquire(**spec) as servable:
            definitions = {
                key: MessageToDict(
                    definition,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                )
                for key, definition in servable.signature_defs.items()
            }
            model_spec = {
                "name": servable.name,
                "signature_name": "",
                "version": str(servable.version),
            }
        metadata = {"signature_def": {"signature_def": definitions}}
        return json.dumps({"model_spec": model_spec, "metadata": metadata}, indent=1).encode()

    # -------------------------------------------------------------- HTTP

    async def _read_body(self, scope: dict[str, Any], receive: Receive) -> bytes:
        """The request's body, never more of it in memory than the limit."""
        length = next((int(v) for k, v in scope["headers"] if k == b"content-length"), 0)
        chunks: list[bytes] = []
        size = 0
        deadline = time.monotonic() + _DRAIN_SECONDS
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            if max(size, length) <= self._max_body:
                chunks.append(chunk)
                continue
            chunks.clear()
            if size > _DRAIN_BYTES or time.monotonic() > deadline:
                break
        if max(size, length) > self._max_body:
            raise ServingError(
                "RESOURCE_EXHAUSTED",
                f"the request body has {max(size, length)} bytes; this server takes at most "
                f"{self._max_body} (--max-body-bytes). Send fewer rows a request.",
                http_status=413,
            )
        return b"".join(chunks)


def record_prediction(metrics: Metrics, model: str, signature: str, prediction: Prediction) -> None:
    """Counts the batches of a request and, where the outputs tell, its tokens."""
    metrics.batches(model, signature, prediction.batch_sizes)
    for kind in ("prompt", "generated"):
        counts = prediction.outputs.get(f"{kind}_tokens")
        if counts is not None and np.issubdtype(counts.dtype, np.integer):
            metrics.tokens(model, kind, int(counts.sum()))


def _signature_inputs(servable: Servable, name: str) -> Mapping[str, TensorInfo]:
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    return servable.signatures[name].inputs


def _model_spec(match: re.Match[str]) -> dict[str, Any]:
    version = match["version"]
    if version is not None and (len(version) > 19 or int(version) > MAX_VERSION):
        raise invalid_argument(f"Failed to convert version: {version} to numeric.")
    return {
        "name": unquote(match["name"]),
        "version": None if version is None else int(version),
        "label": None if match["label"] is None else unquote(match["label"]),
    }


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, content_type: str, length: int | None = None) -> None:
    headers = [(b"content-type", content_type.encode())]
    if length is None:
        headers.append((b"cache-control", b"no-cache"))
    else:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _reply(
    send: Send, status: int, body: bytes, content_type: str = "application/json"
) -> None:
    await _start(send, status, content_type, len(body))
    await send({"type": "http.response.body", "body": body})
