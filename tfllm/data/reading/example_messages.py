"""Read the messages of conversations, in the formats of common data sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from tfllm.data.reading.conversation_strings import Message
from tfllm.data.reading.json_records import BadRecord, check_characters, json_type, keys_of
from tfllm.data.reading.record_keys import (
    MESSAGE_REASONING,
    MESSAGE_WEIGHTS,
    REFUSED_IN_MESSAGES,
    is_blank,
)
from tfllm.tokenizers.chat.conversation import ROLES, joined_parts

_OTHER_ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("observation", "tool_response", "function_response"), "tool"),
}
"""names of roles in ShareGPT's and other formats"""
_CALLS = ("function_call", "tool_call")
"""roles of ShareGPT's format whose value is a tool call as JSON"""
_SUPPORTED = ("role", "content", "tool_calls", *MESSAGE_WEIGHTS, *MESSAGE_REASONING)


class MessageReader:
    """Converts messages to a uniform form: role, content, and other keys that a template reads.

    Args:
        reads: tells whether the chat template reads a key; other keys are ignored, and counted.
        ignored: keys that are ignored in any case.
    """

    def __init__(self, reads: Callable[[str], bool], ignored: Collection[str] = ()) -> None:
        self.unused: Counter[str] = Counter()
        """keys that were ignored, and their counts"""
        self._reads = reads
        self._ignored = frozenset(ignored)

    def __call__(self, value: Any, name: str, where: str) -> list[Message]:
        """Convert a list of messages, which may be given as JSON.

        Args:
            value: the list.
            name: key of the list in the record, for errors.
            where: place of the record, for errors.

        Raises:
            BadRecord: the value is not a list of messages, or contains an unsupported key.
        """
        value = parsed(value, name, where)
        if not isinstance(value, list) or not value:
            received = "an empty list" if value == [] else json_type(value)
            raise BadRecord(
                where, f": {name!r} must be a list of messages (at least one); received {received}"
            )
        if len(value) > 1 and all(isinstance(item, str) for item in value):
            raise BadRecord(
                where,
                f": {name!r} must be a string or a list of messages; received a list of "
                f"{len(value)} strings; write several answers as separate records",
            )
        return [
            self._message(message, f"message {number} of {name!r}", where)
            for number, message in enumerate(value, 1)
        ]

    def _message(self, message: Any, what: str, where: str) -> Message:
        if not isinstance(message, dict):
            raise BadRecord(
                where,
                f": {what} must be an object with role and content; received {json_type(message)}",
            )
        for key in self._ignored.intersection(message):
            self.unused[key] += message[key] is not None
        message = {key: value for key, value in message.items() if key not in self._ignored}
        for key, advice in REFUSED_IN_MESSAGES.items():
            value = message.get(key)
            if not is_blank(value) and value is not False:
                raise BadRecord(where, f": {what} has {key!r}, which is not supported; {advice}")
        role_key = next((key for key in ("role", "from") if key in message), None)
        text_key = next((key for key in ("content", "value") if key in message), None)
        calls = parsed(message.get("tool_calls"), f"tool_calls of {what}", where)
        for key, found in (("role", role_key), ("content", text_key or (calls and "tool_calls"))):
            if found is None or found == []:
                raise BadRecord(where, f": {what} has no {key}; its keys are: {keys_of(message)}")
        assert role_key is not None
        role = _role(message[role_key], what, where)
        made: Message = {"role": "assistant" if role in _CALLS else role}
        content = message.get(text_key) if text_key is not None else None
        if role in _CALLS:
            made["tool_calls"] = _calls(content, what, where)
        elif content is not None or not calls:
            made["content"] = _content(content, what, where)
        if not is_blank(calls):
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                raise BadRecord(where, f": tool_calls of {what} must be a list of objects")
            made["tool_calls"] = calls
        for key, value in message.items():
            if key in (role_key, text_key, "tool_calls") or is_blank(value):
                continue
            if key in MESSAGE_WEIGHTS:
                _set_weight(made, key, value, what, where)
            elif key in MESSAGE_REASONING:
                made[key] = string(value, f"{key} of {what}", where)
            elif key not in _SUPPORTED and self._reads(key):
                made[key] = value
            else:
                self.unused[key] += 1
        return made


def parsed(value: Any, name: str, where: str) -> Any:
    """Parse a string as JSON, as in a cell of a table; other values are returned unchanged.

    Raises:
        BadRecord: the string is not JSON.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        made = json.loads(value)
    except (ValueError, RecursionError) as error:
        python = " (it looks like a Python list: write it with json.dumps)" if "'" in value else ""
        raise BadRecord(
            where,
            f": {name!r} must be a list, possibly as JSON; received a string{python}: {error}",
        ) from None
    return made


def string(value: Any, name: str, where: str) -> str:
    """Check that a value is a string, and return it.

    Raises:
        BadRecord: it is not a string, or cannot be encoded in UTF-8.
    """
    if not isinstance(value, str):
        raise BadRecord(
            where, f": the value of {name!r} must be a string; received {json_type(value)}"
        )
    check_characters(value, where, name)
    return value


def speaker_key(record: dict[str, Any]) -> str | None:
    """The key of the role in a record that is a single message, as in OASST; None for others."""
    for key in ("role", "from"):
        role = record.get(key)
        if isinstance(role, str) and _folded_role(role) in (*ROLES, *_CALLS):
            return key
    return None


def _folded_role(role: str) -> str:
    """The standard name of a role, or the role in lower case if it is unknown."""
    folded = role.strip().lower().replace("-", "_")
    return _OTHER_ROLES.get(folded, folded)


def _role(value: Any, what: str, where: str) -> str:
    role = string(value, f"role of {what}", where)
    folded = _folded_role(role)
    if folded not in (*ROLES, *_CALLS):
        known = ", ".join((*ROLES, *_OTHER_ROLES, *_CALLS))
        raise BadRecord(where, f": {what} must have one of the roles {known}; received {role!r}")
    return folded


def _content(value: Any, what: str, where: str) -> str:
    name = f"content of {what}"
    if isinstance(value, list):
        try:
            value = joined_parts(value)
        except ValueError as error:
            raise BadRecord(where, f": the {name} {error}") from None
    return string(value, name, where)


def _calls(value: Any, what: str, where: str) -> list[dict[str, Any]]:
    """Tool calls from `{"name": ..., "arguments": {...}}`, one or a list of them, as JSON."""
    value = parsed(value, f"the call of {what}", where)
    found = value if isinstance(value, list) else [value]
    calls = []
    for call in found:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise BadRecord(
                where,
                f": {what} must contain a call as JSON, with name and arguments; received "
                f"{json_type(call)}",
            )
        arguments = call.get("arguments", {})
        function = {"name": call["name"], "arguments": arguments}
        calls.append({"type": "function", "function": function})
    return calls


def _set_weight(message: Message, key: str, value: Any, what: str, where: str) -> None:
    if value not in (0, 1) or isinstance(value, str):
        raise BadRecord(
            where,
            f": {key!r} of {what} must be 0 (not learned) or 1; received {value!r}; other weights "
            "are not supported",
        )
    if message["role"] == "assistant":
        message["weight"] = min(int(value), message.get("weight", 1))
    elif value:
        raise BadRecord(
            where,
            f": {key!r} of {what} is {value!r}, but only the assistant's words are learned; leave "
            "out that key",
        )
