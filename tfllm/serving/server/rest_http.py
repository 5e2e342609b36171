"""HTTP over ASGI: request bodies, of which at most a limit is kept in memory, and replies."""

from __future__ import annotations

import html
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from tfllm.serving.protocol.errors import ServingError, invalid_argument

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# The rest of a body over the limit is read and discarded up to here, because a client whose
# connection is closed while it sends never sees the reply that says why.
_DRAIN_BYTES = 1 << 30
_DRAIN_SECONDS = 20.0

_GZIP = 16 + zlib.MAX_WBITS


CORS_HEADERS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)
"""headers that allow requests from pages of other origins, as TensorFlow Serving sends them"""


class Disconnected(Exception):
    """The client disconnected before its request was complete."""


class Body(NamedTuple):
    """A body as it was sent."""

    content: bytes
    is_gzip: bool
    """whether its headers say that it is compressed"""

    def inflated(self, limit: int) -> bytes:
        """The body, decompressed.

        Args:
            limit: longest decompressed body, in bytes.

        Raises:
            ServingError: INVALID_ARGUMENT if the headers say gzip and the body is not,
                RESOURCE_EXHAUSTED (413) if it is over the limit.
        """
        if not self.is_gzip or not self.content:
            return self.content
        decompressor = zlib.decompressobj(_GZIP)
        try:
            content = decompressor.decompress(self.content, limit + 1)
        except zlib.error as error:
            raise invalid_argument(
                f"the headers say that the request body is gzip, and it is not: {error}"
            ) from None
        if len(content) > limit:
            raise _too_long(f"more than {limit} bytes when it is inflated", limit)
        if not decompressor.eof or decompressor.unused_data:
            raise invalid_argument("the gzip request body must be one whole member")
        return content


async def read_body(headers: Headers, receive: Receive, limit: int) -> Body:
    """Read the body of a request.

    Args:
        headers: headers of the request, with names in lower case.
        receive: ASGI's function that receives messages.
        limit: longest body, in bytes.

    Raises:
        Disconnected: the client disconnected.
        ServingError: RESOURCE_EXHAUSTED (413) if the body is over the limit.
    """
    headers = list(headers)
    length = next((int(v) for k, v in headers if k == b"content-length"), 0)
    is_gzip = any(b"gzip" in v for k, v in headers if k == b"content-encoding")
    chunks: list[bytes] = []
    size = 0
    deadline = time.monotonic() + _DRAIN_SECONDS
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if max(size, length) <= limit:
            chunks.append(chunk)
            continue
        chunks.clear()
        if size > _DRAIN_BYTES or time.monotonic() > deadline:
            break
    if max(size, length) > limit:
        raise _too_long(f"{max(size, length)} bytes", limit)
    return Body(b"".join(chunks), is_gzip)


async def start_reply(
    send: Send,
    status: int,
    content_type: str,
    length: int | None = None,
    headers: Headers = (),
) -> None:
    """Send the head of a reply; if `length` is None, the body is sent in pieces."""
    head = [(b"content-type", content_type.encode())] if content_type else []
    if length is None:
        head.append((b"cache-control", b"no-cache"))
    else:
        head.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*head, *headers]})


async def reply(
    send: Send,
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: Headers = (),
) -> None:
    """Send a complete reply."""
    await start_reply(send, status, content_type, len(body), headers)
    await send({"type": "http.response.body", "body": body})


async def reply_page(send: Send, status: int, reason: str, hint: str) -> None:
    """Send an HTML page and close the connection, as an HTTP server does if there is no route."""
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1>"
    page += f"<p>{html.escape(hint)}</p></body></html>\n"
    close = ((b"connection", b"close"),)
    await reply(send, status, page.encode("utf-8", "replace"), "text/html", close)


def _too_long(size: str, limit: int) -> ServingError:
    return ServingError(
        "RESOURCE_EXHAUSTED",
        f"the request body has {size}; this server takes at most {limit} (--max-body-bytes). "
        "Send fewer rows in a request.",
        http_status=413,
    )
