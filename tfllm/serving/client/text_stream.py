"""The live token streams of `tfllm serve`, which TensorFlow Serving does not have."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from tfllm.generation.options import option_values, read_options
from tfllm.serving.client.rest_transport import RestTransport
from tfllm.serving.protocol.errors import ServingError


def text_stream(
    transport: RestTransport, body: dict[str, Any]
) -> Generator[str, None, dict[str, Any]]:
    """Send a request for a stream, and yield its pieces of text as they arrive.

    Args:
        transport: the connection to the server.
        body: the JSON of the request.

    Returns:
        finish_reason, prompt_tokens and generated_tokens.

    Raises:
        ServingError: the server refused the request, failed, or does not answer.
    """
    summary: dict[str, Any] = {}
    for data in transport.events("stream", body):
        if data == "[DONE]":
            return summary
        event = json.loads(data)
        if "error" in event:
            raise ServingError("INTERNAL", event["error"])
        if "text" in event:
            yield event["text"]
        else:
            summary = event
    raise ServingError("UNAVAILABLE", "the server ended the stream before it was complete")


def stream_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a stream as its JSON has them: those that were given, checked.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    config = read_options(options)
    values = {**option_values(config), "stop": list(config.stop)}
    return {name: values[name] for name in options}
