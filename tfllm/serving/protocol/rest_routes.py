"""Finds out what a REST request asks for, from its method and path, by TensorFlow Serving's rules.

The words of a path (`v1`, `models`, `versions`, `labels`) may have any case, but a call and
`metadata` must be in lower case. A query string counts as part of the path, so a path with a query
string is never valid for a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from tfllm.serving.protocol.model_config import MAX_VERSION

METRICS_PATH = "/monitoring/prometheus/metrics"

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
# Only `tfllm serve` has `stream` and `chat_template`; they must be in lower case.
_POST = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<word>classify|regress|predict|(?-i:stream))",
    re.I | re.A,
)
_GET = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<word>metadata|(?-i:chat_template)))?",
    re.I | re.A,
)

# The only methods that the HTTP server of TensorFlow Serving supports.
_METHODS = {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"}
_LEGAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")

Kind = Literal["call", "status", "metadata", "chat_template", "preflight", "metrics", "refused"]


@dataclass(frozen=True)
class Route:
    """What a request asks for."""

    kind: Kind
    word: str = ""
    """of a `call`, the last word of the path: "predict", "classify", "regress" or "stream" """
    name: str = ""
    """the model's name"""
    version: int | None = None
    label: str | None = None
    error: str = ""
    """of a request that is `refused`, the reason"""


class NoRoute(Exception):
    """The HTTP server itself refuses a request, with an HTML page.

    Attributes:
        status: the HTTP status.
        reason: the reason phrase of the status.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def find_route(method: str, path: str, query: str) -> Route:
    """Find the route of a request.

    Args:
        method: the HTTP method.
        path: the path as sent, without the query string and not decoded.
        query: the query string, or "".

    Raises:
        NoRoute: there is nothing at the path, or the path or the method is not valid.
    """
    if method not in _METHODS:
        raise NoRoute(501, "Not Implemented")
    if not _LEGAL.fullmatch(path) or not _LEGAL.fullmatch(query.replace("?", "")):
        raise NoRoute(400, "Bad Request")
    whole = f"{path}?{query}" if query else path
    if path == METRICS_PATH:
        wrong = f"Unexpected path: {whole}. Should be {METRICS_PATH}" if query else ""
        return Route("metrics", error=wrong)
    if not path.lower().startswith("/v1/"):
        raise NoRoute(404, "Not Found")
    if method == "OPTIONS":
        return Route("preflight")
    malformed = f"Malformed request: {method} {whole}"
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = None if pattern is None else pattern.fullmatch(whole)
    if match is None:
        return Route("refused", error=malformed)
    name, word, digits = unquote(match["name"] or ""), match["word"] or "", match["version"]
    label = None if match["label"] is None else unquote(match["label"])
    version = None if digits is None else _number(digits)
    if digits is not None and version is None:
        error = f"Failed to convert version: {digits} to numeric."
        return Route("refused", name=name, error=error)
    kind: Kind
    if method == "POST":
        kind = "call" if word == word.lower() else "refused"
        return Route(kind, word, name, version, label, malformed)
    if not name:
        return Route("refused", error="Missing model name in request.")
    kind = "status"  # in TensorFlow Serving also for METADATA in upper case
    if word == "metadata":
        kind = "metadata"
    elif word == "chat_template":
        kind = "chat_template"
    return Route(kind, "", name, version, label)


def _number(digits: str) -> int | None:
    """A version number; None if it does not fit into 64 bits."""
    significant = digits.lstrip("0") or "0"
    fits = len(significant) <= 19 and int(significant) <= MAX_VERSION
    return int(significant) if fits else None
