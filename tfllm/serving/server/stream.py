"""A live stream of text from a SavedModel that has `stream_begin` and `stream_next`.

TensorFlow Serving does not have such streams. Between calls, the state of a generation is kept in
tensors, so each token is one step of the model, and the stream ends when its client disconnects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfllm.config import ConfigError
from tfllm.generation.options import (
    OPTION_TYPES,
    exported_options,
    option_values,
    read_options,
    stop_input,
)
from tfllm.generation.stop_strings import StopHold
from tfllm.serving.protocol.errors import ServingError, invalid_argument
from tfllm.serving.server.servable import Servable


def read_stream_request(document: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Read and check the JSON of a `:stream` request.

    Returns:
        The prompt (a text, or the messages of a conversation) and the options.

    Raises:
        ServingError: INVALID_ARGUMENT if the request breaks a rule.
    """
    options = dict(document)
    prompt, messages = options.pop("prompt", None), options.pop("messages", None)
    if not isinstance(prompt, str) and (prompt is not None or not isinstance(messages, list)):
        raise invalid_argument(
            "a :stream request must be an object with a string 'prompt', such as "
            '{"prompt": "Once", "max_new_tokens": 32}, or a list \'messages\', such as '
            '{"messages": [{"role": "user", "content": "Hello"}]}'
        )
    if prompt is not None and messages is not None:
        raise invalid_argument("a :stream request has a prompt or messages; received both")
    for name, value in options.items():
        # Settings in a file or on the command line may be texts; in JSON they are numbers.
        if name != "stop" and isinstance(value, str):
            raise invalid_argument(f"{name} must be a number; received {value!r}")
    try:
        if prompt is not None:
            prompt.encode()
        config = read_options(options)
        stop_input(config.stop)
    except UnicodeEncodeError:
        raise invalid_argument("the prompt must be valid Unicode") from None
    except ConfigError as error:
        raise invalid_argument(str(error)) from None
    return messages if prompt is None else prompt, options


def chat_prompt(servable: Servable, messages: list[Any]) -> str:
    """A conversation in the form that the signature `chat_prompt` takes.

    Raises:
        ServingError: INVALID_ARGUMENT if the model has no chat template, or it refuses the
            conversation.
    """
    if servable.chat_template is None:
        raise invalid_argument(
            f"model {servable.name} version {servable.version} was exported without a chat "
            "template, so it takes a prompt instead of messages"
        )
    from tfllm.tokenizers.chat.chat_template import ChatTemplate

    try:
        return ChatTemplate.from_json(servable.chat_template).prompt(messages)
    except ValueError as error:
        raise invalid_argument(str(error)) from None


def model_options(servable: Servable) -> dict[str, Any]:
    """The options that a model was exported with, from its signature `generate`."""
    generate = servable.signatures.get("generate")
    defaults = {} if generate is None else generate.defaults
    values = {name: value.item() for name, value in defaults.items() if value.size == 1}
    if isinstance(stop := values.get("stop"), bytes):
        values["stop"] = stop.decode("utf-8", "replace")
    return exported_options(values)


class TextStream:
    """A generation, one token at a time.

    Args:
        servable: a loaded version; it must stay acquired while the stream runs.
        prompt: the text to continue, or the messages to reply to.
        options: options of the generation. Others are as the model was exported.

    Raises:
        ServingError: UNIMPLEMENTED if the model has no stream; INVALID_ARGUMENT if it refuses the
            prompt.
    """

    def __init__(self, servable: Servable, prompt: Any, options: dict[str, Any]) -> None:
        if not servable.can_stream:
            raise ServingError(
                "UNIMPLEMENTED",
                f"model {servable.name} version {servable.version} has no live stream: its "
                "SavedModel lacks the functions stream_begin and stream_next; use :predict",
                http_status=400,
            )
        self._servable = servable
        config = read_options(options, model_options(servable))
        self._hold = StopHold(config.stop)
        chat = not isinstance(prompt, str)
        text = (chat_prompt(servable, prompt) if chat else prompt).encode("utf-8", "surrogatepass")
        inputs: dict[str, np.ndarray] = {"prompt": np.array([text], np.object_)}
        generate = servable.signatures.get("generate")
        known = None if generate is None else generate.inputs
        try:
            values = option_values(config, known)
        except ConfigError as error:
            raise invalid_argument(str(error)) from None
        for name, value in values.items():
            value = value.encode() if isinstance(value, str) else value
            inputs[name] = np.array([value], OPTION_TYPES[name])
        self._state = servable.stream_begin(inputs, chat=chat)
        self._refuse()

    def pieces(self) -> Iterator[str]:
        """Yield the text as it is generated, a piece for each step of the model.

        A piece is empty while a character is incomplete or a stop string may have begun.

        Raises:
            ServingError: the model failed.
        """
        while True:
            done = bool(self._state["done"].numpy()[0])
            text = self._state["text"].numpy()[0].decode("utf-8", "replace")
            yield self._hold.piece(text, done)
            if done:
                return
            self._state = self._servable.stream_next(self._state)
            self._refuse()

    def summary(self) -> dict[str, Any]:
        """Why the generation ended, and its numbers of tokens."""
        return {
            "finish_reason": self._state["finish_reason"].numpy()[0].decode(),
            "prompt_tokens": int(self._state["prompt_tokens"].numpy()[0]),
            "generated_tokens": int(self._state["generated_tokens"].numpy()[0]),
        }

    def _refuse(self) -> None:
        error = self._state["error"].numpy()[0] if "error" in self._state else b""
        if error:
            raise invalid_argument(error.decode("utf-8", "replace"))
