"""A client of TensorFlow Serving or `tfllm serve`, over REST or gRPC.

REST requires only the standard library and NumPy. TensorFlow Serving supports everything except
`stream` and `stream_chat`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from tfllm.config import unknown_name
from tfllm.generation.options import OPTION_TYPES, option_values, read_options
from tfllm.serving.client.chat_templates import read_template
from tfllm.serving.client.grpc_transport import GrpcTransport
from tfllm.serving.client.reply_rows import json_rows, raise_row_errors, score_rows
from tfllm.serving.client.request_rows import require_rows, require_texts
from tfllm.serving.client.rest_transport import RestTransport, Transport
from tfllm.serving.client.served_signatures import ServedSignatures
from tfllm.serving.client.text_stream import stream_options, text_stream

if TYPE_CHECKING:
    from tfllm.tokenizers.chat.chat_template import ChatTemplate, Messages


class Client:
    """Sends requests to one model of a server. Threads may share a client.

    Example::

        with Client("127.0.0.1:8501", model="mine") as client:
            print(client.generate("Once upon a time", max_new_tokens=20))

    Args:
        address: `host:port`; for REST also a URL, which may be https and have a path before `/v1`.
            Defaults to 127.0.0.1 with port 8501 for REST or 8500 for gRPC.
        model: the model's name.
        version: number of its version. Defaults to the one that the server chooses, the newest.
        label: label of a version, instead of its number.
        protocol: "rest" or "grpc"; gRPC requires grpcio and tensorflow-serving-api.
        timeout: time limit of a request, in seconds.
        template: the model's chat template, for conversations of more than one question: a
            `ChatTemplate`, or the path of the model folder or of the exported model. Defaults to
            the one that `tfllm serve` returns; TensorFlow Serving does not return it.

    Raises:
        ValueError: an argument is wrong, or a package is missing.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        protocol: Literal["rest", "grpc"] = "rest",
        timeout: float = 300.0,
        template: ChatTemplate | str | Path | None = None,
    ) -> None:
        if not model:
            raise ValueError("model must be the name of a model on the server; received ''")
        if version is not None and label is not None:
            raise ValueError(f"give version or label, not both; received {version!r} and {label!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive; received {timeout!r}")
        if protocol not in ("rest", "grpc"):
            raise ValueError(f"protocol must be 'rest' or 'grpc'; received {protocol!r}")
        kind: Callable[..., Transport] = RestTransport if protocol == "rest" else GrpcTransport
        self.protocol = protocol
        self._transport = kind(address, model, version, label, timeout)
        self._signatures = ServedSignatures(self._transport)
        self._template = read_template(template) if isinstance(template, str | Path) else template

    @overload
    def generate(self, prompt: str, **options: Any) -> str: ...
    @overload
    def generate(self, prompt: list[str], **options: Any) -> list[str]: ...
    def generate(self, prompt: str | list[str], **options: Any) -> str | list[str]:
        """Continue a prompt, or each of several.

        Args:
            prompt: a text or a list of texts.
            **options: max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed,
                stop (a string or several), prompt_lookup_tokens, for all prompts. Without options,
                the signature `serving_default` answers, otherwise `generate`. Other options are as
                the model was exported or, if its metadata does not give them, as in
                `GenerationConfig`.

        Returns:
            The new text without the prompt, or a list of them.

        Raises:
            GenerationError: the model refused a prompt; `outputs["text"]` of the error has the
                answers to the others.
            ServingError: the server refused the request or does not answer.
            ValueError: there is no prompt, or an option is unknown or out of range.
        """
        single = isinstance(prompt, str)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        require_rows("prompt", prompts)
        require_texts("prompt", prompts)
        inputs: dict[str, Any] = {"prompt": np.array(prompts, np.object_)}
        if options:
            read_options(options)  # refuse wrong options before a request is sent
            config = read_options(options, self._signatures.generation_options())
            known = self._signatures.get("generate")["inputs"]
            for name, value in option_values(config, known).items():
                inputs[name] = np.array([value] * len(prompts), OPTION_TYPES[name])
        outputs = self.predict(inputs, signature_name="generate" if options else "serving_default")
        raise_row_errors(outputs)
        texts = [str(text) for text in outputs["text"]]
        return texts[0] if single else texts

    def chat(self, messages: str | Messages, **options: Any) -> str:
        """Generate the assistant's next reply in a conversation.

        One question, with or without a system message, is sent to the signature `chat`, if the
        model has it. Longer conversations are written with the model's chat template (see
        `template`) and sent to the signature `chat_prompt`. In both cases, special tokens in the
        messages are treated as plain text.

        Args:
            messages: the conversation, with messages like `{"role": "user", "content": "Hello"}`;
                or a text, which is one question.
            **options: as for `generate`.

        Returns:
            The reply.

        Raises:
            GenerationError: the model refused the conversation.
            ServingError: the model does not support conversations, or the server refused the
                request or does not answer.
            ValueError: the conversation is not well formed, an option is unknown or out of range,
                or the template is required and unknown.
        """
        from tfllm.tokenizers.chat import conversation

        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        given = conversation.checked(messages)
        conversation.check_last(given)
        read_options(options)  # refuse wrong options before a request is sent
        self._signatures.get("chat_prompt")
        if (words := _one_question(given)) and "chat" in self._signatures:
            name, inputs = "chat", dict(zip(("system", "user"), words, strict=True))
        else:
            name, inputs = "chat_prompt", {"prompt": self._chat_template().prompt(given)}
        config = read_options(options, self._signatures.generation_options())
        values = option_values(config, self._signatures.get(name)["inputs"])
        arrays = {key: np.array([text], np.object_) for key, text in inputs.items()}
        arrays |= {key: np.array([value], OPTION_TYPES[key]) for key, value in values.items()}
        outputs = self.predict(arrays, signature_name=name)
        raise_row_errors(outputs)
        return str(outputs["text"][0])

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            text = self._transport.chat_template()
            if text is None:
                raise ValueError(
                    "a conversation of more than one question requires the model's chat template, "
                    "and the server does not return it: give template= the model's folder"
                )
            from tfllm.tokenizers.chat.chat_template import ChatTemplate

            self._template = ChatTemplate.from_json(text)
        return self._template

    @overload
    def score(self, text: str) -> dict[str, Any]: ...
    @overload
    def score(self, text: list[str]) -> list[dict[str, Any]]: ...
    def score(self, text: str | list[str]) -> dict[str, Any] | list[dict[str, Any]]:
        """Compute how likely a text is for the model.

        Args:
            text: a text or a list of texts.

        Returns:
            A dictionary for each text: num_tokens, log_prob (natural logarithm, summed over the
            tokens), perplexity, token_ids and token_log_probs (lists without padding).

        Raises:
            GenerationError: the model refused a text.
            ServingError: the server refused the request or does not answer.
            ValueError: there is no text.
        """
        texts = [text] if isinstance(text, str) else list(text)
        require_rows("text", texts)
        require_texts("text", texts)
        outputs = self.predict({"text": np.array(texts, np.object_)}, signature_name="score")
        raise_row_errors(outputs)
        scores = score_rows(outputs, len(texts))
        return scores[0] if isinstance(text, str) else scores

    def predict(
        self, inputs: Any, *, signature_name: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Run a signature.

        Args:
            inputs: input name to value (an array or nested lists), or only the value if the
                signature has one input. Strings may be `str` or `bytes`.
            signature_name: name of the signature.

        Returns:
            Output name to array, of the signature's type. Strings are object arrays of `str`, or of
            `bytes` if the name ends in `_bytes`.

        Raises:
            ServingError: the server refused the request or does not answer.
            ValueError: there is no input, or an input has no rows.
        """
        if isinstance(inputs, Mapping) and not inputs:
            raise ValueError("inputs must name at least one input; received none")
        for name, value in inputs.items() if isinstance(inputs, Mapping) else [("inputs", inputs)]:
            require_rows(name, value)
        signature = self._signatures.get(signature_name)
        if not isinstance(inputs, Mapping):
            names = list(signature["inputs"])
            if len(names) != 1:
                raise ValueError(
                    f"inputs must be a dictionary, as signature {signature_name!r} has "
                    f"{', '.join(sorted(names))}; received {type(inputs).__name__}"
                )
            inputs = {names[0]: inputs}
        return self._transport.predict(dict(inputs), signature_name, signature)

    def input_names(self, signature_name: str = "serving_default") -> list[str]:
        """The names of a signature's inputs, in alphabetical order.

        Raises:
            ServingError: there is no such signature or model, or the server does not answer.
        """
        return sorted(self._signatures.get(signature_name)["inputs"])

    def rows(self, signature_name: str, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
        """Run a signature whose inputs are texts, row by row.

        Args:
            signature_name: name of the signature; all its inputs must be strings.
            rows: for each row, input name to text. All rows must have the same names.

        Returns:
            For each row, output name to a value that JSON can hold. An output whose name ends in
            `_json` is parsed, and its name loses that ending.

        Raises:
            ServingError: the server refused the request or does not answer.
            ValueError: there is no row, or the signature has no input of a name.
        """
        require_rows("rows", rows)
        known = self.input_names(signature_name)
        for name in rows[0]:
            if name not in known:
                raise ValueError(unknown_name(f"input of {signature_name}", name, known))
        for row in rows:
            require_texts("an input", list(row.values()))
        inputs = {name: np.array([row[name] for row in rows], np.object_) for name in rows[0]}
        outputs = self.predict(inputs, signature_name=signature_name)
        return json_rows(outputs, len(rows))

    def classify(
        self, examples: Sequence[Mapping[str, str]], *, signature_name: str = "classify"
    ) -> list[list[tuple[str, float]]]:
        """Run a signature through TensorFlow Serving's Classify call.

        Args:
            examples: for each example, feature name to text.
            signature_name: name of the signature.

        Returns:
            For each example, its classes as (label, score), in the model's order.

        Raises:
            ServingError: the server refused the request or does not answer.
            ValueError: there is no example.
        """
        require_rows("examples", examples)
        for example in examples:
            require_texts("a feature", list(example.values()))
        return self._transport.classify(examples, signature_name)

    def stream(self, prompt: str, **options: Any) -> Generator[str, None, dict[str, Any]]:
        """Yield a continuation piece by piece as it is generated; only for `tfllm serve`.

        Closing the generator early ends the generation on the server.

        Args:
            prompt: the text to continue.
            **options: as for `generate`.

        Returns:
            The generator's return value has finish_reason, prompt_tokens and generated_tokens.

        Raises:
            ServingError: the server refused the request, does not support streams, or does not
                answer.
            ValueError: an option is unknown or out of range, or the protocol is gRPC.
        """
        if not isinstance(self._transport, RestTransport):
            raise ValueError("stream requires REST; received a client with protocol='grpc'")
        require_texts("prompt", [prompt])
        return text_stream(self._transport, {"prompt": prompt, **stream_options(options)})

    def stream_chat(
        self, messages: str | Messages, **options: Any
    ) -> Generator[str, None, dict[str, Any]]:
        """Yield the assistant's next reply as it is generated; only for `tfllm serve`.

        Args:
            messages: as for `chat`; the server writes them with the model's chat template.
            **options: as for `generate`.

        Returns:
            As for `stream`.

        Raises:
            ServingError: as for `stream`.
            ValueError: as for `stream`, or the conversation is not well formed.
        """
        from tfllm.tokenizers.chat import conversation

        if not isinstance(self._transport, RestTransport):
            raise ValueError("stream_chat requires REST; received a client with protocol='grpc'")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        given = conversation.checked(messages)
        conversation.check_last(given)
        return text_stream(self._transport, {"messages": given, **stream_options(options)})

    def status(self) -> list[dict[str, Any]]:
        """The states of the model's versions, newest first.

        Returns:
            For each version: version (int), state ("AVAILABLE", ...), error_code ("OK", ...) and
            error_message.

        Raises:
            ServingError: there is no such model, or the server does not answer.
        """
        return self._transport.status()

    def metadata(self) -> dict[str, Any]:
        """The model's signatures, in the form of TensorFlow Serving's REST.

        Returns:
            `{"model_spec": {...}, "metadata": {"signature_def": {"signature_def": {...}}}}`.

        Raises:
            ServingError: there is no such model, or the server does not answer.
        """
        return self._transport.metadata()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _one_question(messages: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The system message ("" if there is none) and the question, if there is nothing else."""
    *before, last = messages
    if any(set(message) != {"role", "content"} for message in messages) or last["role"] != "user":
        return None
    if not before:
        return "", last["content"]
    if len(before) == 1 and before[0]["role"] == "system" and before[0]["content"]:
        return before[0]["content"], last["content"]
    return None
