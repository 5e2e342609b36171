"""Check that a chat template writes everything that a conversation contains.

A template silently leaves out what it does not use, and a model would then learn from something
other than intended. Here this is detected by rendering the conversation with probes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfllm.tokenizers.chat import conversation
from tfllm.tokenizers.chat.chat_template import ChatTemplate

_PROBE = "tfllm_probe"
_ARGUMENT = {"tfllm_key": "tfllm_value"}
_VARIABLES = ("tools", "documents")

Messages = list[dict[str, Any]]


class TemplateCoverage:
    """Compares conversations with what a template writes.

    Args:
        template: Chat template of the model.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._writes_reasoning = False
        self._written_roles: set[tuple[str, bool]] = set()

    def fitted(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> Messages:
        """Bring a conversation to a form that the template writes completely.

        Only the form of tool calls may change: some templates take their arguments as an object,
        others as JSON.

        Raises:
            ValueError: If the template refuses the conversation, or leaves out a part, which is
                named.
        """
        given = conversation.checked(messages)
        self._check_reasoning(given, variables)
        given = self._with_calls(given, variables)
        self._check_roles(given, variables)
        self._check_variables(given, variables)
        return given

    # ------------------------------------------------------------------

    def _render(self, messages: Messages, variables: Mapping[str, Any]) -> str:
        return self._template.render(messages, **variables)

    def _check_reasoning(self, messages: Messages, variables: Mapping[str, Any]) -> None:
        """Check the last answer only; some templates omit earlier reasoning on purpose."""
        if not any("reasoning_content" in message for message in messages):
            return
        is_written = any(map(self._template.mentions, ("reasoning_content", "thinking")))
        if is_written and "reasoning_content" in messages[-1] and not self._writes_reasoning:
            probe = {"thinking": _PROBE, "reasoning_content": _PROBE}
            text = self._render([*messages[:-1], {**messages[-1], **probe}], variables)
            self._writes_reasoning = is_written = _PROBE in text
        if not is_written:
            raise ValueError(
                "the chat template does not write the reasoning (reasoning_content); write it into "
                "the content as the model does, or ignore it with --ignore-keys "
                "reasoning_content thinking reasoning"
            )

    def _check_variables(self, messages: Messages, variables: Mapping[str, Any]) -> None:
        if not variables:
            return
        text = self._render(messages, variables)
        for name, value in variables.items():
            if name in _VARIABLES:
                lost = [] if self._reads(name, messages, variables, text) else [name]
                if name == "tools":
                    lost += [tool for tool in map(_tool_name, value) if tool and tool not in text]
            else:
                lost = [] if self._template.mentions(name) else [name]
            if lost:
                raise ValueError(
                    f"the chat template does not write {lost[0]!r}"
                    f"{'' if lost[0] == name else f' of {name}'}; use a model whose "
                    f"template does, or ignore it with --ignore-keys "
                    f"{name if name in _VARIABLES else 'chat_template_kwargs'}"
                )

    def _reads(
        self, name: str, messages: Messages, variables: Mapping[str, Any], text: str
    ) -> bool:
        """Whether the text changes, or rendering fails, without a variable."""
        others = {key: value for key, value in variables.items() if key != name}
        try:
            return self._render(messages, others) != text
        except ValueError:
            return True

    def _check_roles(self, messages: Messages, variables: Mapping[str, Any]) -> None:
        """Check one message of each role other than user and assistant."""
        for i, message in enumerate(messages):
            kind = (message["role"], i == 0)
            if kind[0] in ("user", "assistant") or kind in self._written_roles:
                continue
            if not message.get("content", "").strip():
                continue
            probed = [*messages[:i], {**message, "content": _PROBE}, *messages[i + 1 :]]
            if _PROBE not in self._render(probed, variables):
                raise ValueError(
                    f"the chat template does not write message {i + 1}, with role {kind[0]!r}; use "
                    "a model whose template does, or rewrite the message"
                )
            self._written_roles.add(kind)

    def _with_calls(self, messages: Messages, variables: Mapping[str, Any]) -> Messages:
        number = sum(len(message.get("tool_calls") or ()) for message in messages)
        if not number:
            return messages
        reason = "it leaves their names or arguments out"
        for form in _FORMS:
            try:
                probed = _with_each_call(_with_each_call(messages, _probe), form)
                text = self._render(probed, variables)
                if _is_written(text, number):
                    return _with_each_call(messages, form)
            except ValueError as error:
                reason = str(error)
        places = [str(i) for i, message in enumerate(messages, 1) if message.get("tool_calls")]
        raise ValueError(
            f"the chat template does not write the tool_calls of message {', '.join(places)} "
            f"({reason}); each must be like "
            '{"type": "function", "function": {"name": ..., "arguments": {...}}}, and the template '
            "must support tool calls"
        )


def _is_written(text: str, number: int) -> bool:
    """Whether the text has that many probes, and their arguments neither as JSON inside JSON nor in
    Python's notation."""
    escaped = json.dumps(json.dumps(_ARGUMENT))[1:-1]
    pieces = (_PROBE, *_ARGUMENT, *_ARGUMENT.values())
    if escaped in text or repr(_ARGUMENT) in text:
        return False
    return all(text.count(piece) >= number for piece in pieces)


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a call must have a name; its keys are {', '.join(map(repr, call))}")
    return function


def _changed(call: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """A copy of a call with other values in its function."""
    function = {**_function(call), **values}
    return {**call, "function": function} if "function" in call else function


def _probe(call: Mapping[str, Any]) -> dict[str, Any]:
    as_text = isinstance(_function(call).get("arguments"), str)
    return _changed(
        call, name=_PROBE, arguments=json.dumps(_ARGUMENT) if as_text else dict(_ARGUMENT)
    )


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object."""
    arguments = _function(call).get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    try:
        return _changed(call, arguments=json.loads(arguments) if arguments.strip() else {})
    except ValueError as error:
        raise ValueError(f"the arguments of a call must be JSON: {error}") from None


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON."""
    arguments = _function(call).get("arguments")
    if isinstance(arguments, str):
        return dict(call)
    return _changed(call, arguments=json.dumps(arguments or {}, ensure_ascii=False))


def _nested(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call in OpenAI's form."""
    return dict(call) if "function" in call else {"type": "function", "function": dict(call)}


_FORMS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (
    dict,
    _with_object,
    _with_text,
    lambda call: _nested(_with_object(call)),
    lambda call: _nested(_with_text(call)),
)


def _with_each_call(messages: Messages, form: Callable[[Any], dict[str, Any]]) -> Messages:
    return [
        {**message, "tool_calls": [form(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _tool_name(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
