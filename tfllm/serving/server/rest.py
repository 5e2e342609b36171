"""TensorFlow Serving's REST as an ASGI application, with `:stream` and `/chat_template` added."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Any

from tfllm.serving.protocol.errors import ServingError, from_exception, invalid_argument
from tfllm.serving.protocol.json_reply import (
    write_error,
    write_metadata,
    write_predict,
    write_status,
)
from tfllm.serving.protocol.json_request import read_json
from tfllm.serving.protocol.rest_routes import NoRoute, Route, find_route
from tfllm.serving.protocol.tensor_json import TensorInfo, read_predict
from tfllm.serving.server.batching import RequestLimit
from tfllm.serving.server.classify import classify, read_classify, write_classify
from tfllm.serving.server.metrics import Metrics
from tfllm.serving.server.regress import regress, write_regress
from tfllm.serving.server.repository import Repository
from tfllm.serving.server.rest_http import (
    CORS_HEADERS,
    Body,
    Disconnected,
    Headers,
    Receive,
    Send,
    read_body,
    reply,
    reply_page,
    start_reply,
)
from tfllm.serving.server.servable import DEFAULT_SIGNATURE, Servable
from tfllm.serving.server.stream import TextStream, read_stream_request

log = logging.getLogger("tfllm.serving")


class RestApp:
    """Answers HTTP requests. Models run in `executor`, so that the event loop stays free.

    Args:
        repository: the models.
        metrics: counts the requests.
        executor: threads for the blocking calls, one for each request that runs or waits.
        limit: limit of the requests that run or wait, over REST and gRPC together.
        max_body_bytes: longest request body, in bytes; a longer one gets 413.
        timeout_seconds: time limit of a call, after which it gets 504; None for no limit.
        max_streams: most live streams at once; a further one gets 429.
        enable_cors: whether to send the headers that allow requests from pages of other origins.
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
        enable_cors: bool = False,
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._executor = executor
        self._limit = limit
        self._max_body = max_body_bytes
        self._timeout = timeout_seconds
        self._headers: Headers = CORS_HEADERS if enable_cors else ()
        self._streams = RequestLimit(
            max_streams,
            "RESOURCE_EXHAUSTED",
            f"{max_streams} live streams are running, which is the limit; try again later",
        )

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI defines it."""
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        path = scope["raw_path"].decode("latin-1")
        try:
            route = find_route(scope["method"], path, scope["query_string"].decode("latin-1"))
        except NoRoute as refusal:
            hint = f"{scope['method']} {path}: models are at /v1/models/NAME"
            await reply_page(send, refusal.status, refusal.reason, hint)
            return
        if route.kind == "metrics":
            page, status = (route.error, 400) if route.error else (self._metrics.page(), 200)
            await reply(send, status, page.encode(), "text/plain")
            return
        code = "OK"
        try:
            await self._answer(route, scope, receive, send)
        except Disconnected:
            code = "CANCELLED"
        except ServingError as error:
            code = error.code
            await self._reply(send, write_error(error.message), error.http_status)
        except Exception as error:
            log.exception("a request failed")
            code = "INTERNAL"
            await self._reply(send, write_error(from_exception(error).message), 500)
        known = route.name if self._repository.has(route.name) else ""
        word = route.word if route.kind == "call" else ""
        self._metrics.request(known, word, "REST", code, time.perf_counter() - start)

    async def _answer(
        self, route: Route, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        if route.kind == "refused":
            raise invalid_argument(route.error)
        if route.kind == "preflight":
            origin = next((v for k, v in scope["headers"] if k == b"origin"), b"")
            if not re.search(rb"https?://", origin):
                raise ServingError(
                    "FAILED_PRECONDITION", "Origin header is missing in CORS preflight"
                )
            await reply(send, 200, b"", "", self._headers)
        elif route.kind == "call":
            body = await read_body(scope["headers"], receive, self._max_body)
            if route.word == "stream":
                await self._stream(route, body.inflated(self._max_body), receive, send)
            else:
                await self._reply(send, await self._call(route, body))
        elif route.kind == "status":
            await self._reply(
                send, write_status(self._repository.status(route.name, route.version))
            )
        else:
            with self._acquire(route) as servable:
                if route.kind == "metadata":
                    content = write_metadata(servable)
                elif servable.chat_template is None:
                    raise ServingError("NOT_FOUND", f"model {route.name} has no chat template")
                else:
                    content = servable.chat_template.encode()
            await self._reply(send, content)

    async def _reply(self, send: Send, body: bytes, status: int = 200) -> None:
        await reply(send, status, body, headers=self._headers)

    def _acquire(self, route: Route) -> Any:
        return self._repository.acquire(route.name, route.version, route.label)

    # -------------------------------------------------------------- predict, classify, regress

    async def _call(self, route: Route, body: Body) -> bytes:
        answers: dict[str, Callable[[Route, bytes], bytes]] = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }
        answer = answers[route.word]
        loop = asyncio.get_running_loop()
        with ExitStack() as held:
            held.enter_context(self._limit.hold())
            future = loop.run_in_executor(
                self._executor, lambda: answer(route, body.inflated(self._max_body))
            )
            # A run that goes on after its request has timed out still counts, until it ends.
            release = held.pop_all()
            future.add_done_callback(lambda _: release.close())
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._timeout)
        except (TimeoutError, asyncio.TimeoutError):
            future.add_done_callback(lambda f: f.exception())  # nothing else reads it
            raise ServingError(
                "DEADLINE_EXCEEDED",
                f"the request took longer than the server's limit of {self._timeout:g} s",
            ) from None

    def _predict(self, route: Route, body: bytes) -> bytes:
        with ExitStack() as held:
            servables: list[Servable] = []

            # As in TensorFlow Serving, a body that is not JSON is refused before the model is
            # looked up; but the tensors cannot be read without the model's signature.
            def inputs(signature_name: str) -> dict[str, TensorInfo]:
                servables.append(held.enter_context(self._acquire(route)))
                name = signature_name or DEFAULT_SIGNATURE
                if name not in servables[0].signatures:
                    raise invalid_argument(
                        f'Serving signature name: "{name}" not found in signature def'
                    )
                return servables[0].signatures[name].inputs

            request = read_predict(body, inputs)
            (servable,) = servables
            signature = servable.signature(request.signature_name)
            prediction = signature.predict(request.inputs)
            self._metrics.prediction(servable.name, "Predict", signature.name, prediction)
            return write_predict(prediction.outputs, request.by_rows)

    def _classify(self, route: Route, body: bytes) -> bytes:
        request = read_classify(body)
        with self._acquire(route) as servable:
            found = classify(servable, request)
            self._metrics.prediction(servable.name, "Classify", found.signature, found.prediction)
            return write_classify(found)

    def _regress(self, route: Route, body: bytes) -> bytes:
        request = read_classify(body)
        with self._acquire(route) as servable:
            found = regress(servable, request)
            self._metrics.prediction(servable.name, "Regress", found.signature, found.prediction)
            return write_regress(found)

    # -------------------------------------------------------------- stream

    async def _stream(self, route: Route, body: bytes, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        document, _ = read_json(body)
        prompt, options = read_stream_request(document)
        with self._streams.hold(), self._acquire(route) as servable:
            stream = await loop.run_in_executor(
                self._executor, TextStream, servable, prompt, options
            )
            gone = asyncio.ensure_future(_wait_for_disconnect(receive))
            try:
                await start_reply(send, 200, "text/event-stream", headers=self._headers)
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
        except ServingError as error:  # the status line was sent, so the stream reports it
            await event(json.dumps({"error": error.message}, ensure_ascii=False))
        if not gone.done():
            await event("[DONE]")


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
