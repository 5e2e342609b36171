"""Check conversations, and break words in them that look like special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfllm.tokenizers.token_bytes import valid_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""Roles that a message may have; a model's template decides which of them it supports."""

BREAK = "\ufdd0"
"""A noncharacter that keeps a special token in a user's own words from being parsed as one. It is
removed when the special tokens of the whole text have been found."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names for the assistant's reasoning before its answer."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_PART_EXTRAS = ("cache_control", "annotations")
"""Keys of a part that no model sees."""
_RESERVED = re.compile("[\ufdd0-\ufdd5]")  # for marks, here and where templates run
_PLAIN = (str, int, float, bool, type(None))

TEMPLATE_FILE = "chat_template.json"
"""File of an exported model, in assets.extra, which TensorFlow Serving does not read: the input of
`ChatTemplate.from_json`."""


def checked(messages: Any) -> list[dict[str, Any]]:
    """Check that messages are a conversation, and return them with plain types.

    Args:
        messages: Messages in order, each `{"role": ..., "content": ...}`. The content is a text, or
            a list of parts of type text, which are joined. Other keys (`name`, `tool_calls`, ...)
            are for the template, and a key whose value is None counts as missing; a message with
            `tool_calls` needs no content. `reasoning_content`, `thinking` and `reasoning` are
            synonyms: a template finds the reasoning under the first two.

    Raises:
        ValueError: If there are no messages; a message lacks a role or content, or has an unknown
            role; or the assistant speaks first.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ValueError(
            "a conversation must be a list of messages, each like "
            f'{{"role": "user", "content": "Hello"}}; received {_shown(messages)}'
        )
    if not messages:
        raise ValueError("a conversation must have at least one message; received none")
    conversation = [_checked(message, i) for i, message in enumerate(messages, 1)]
    for i, message in enumerate(conversation, 1):
        if message["role"] in ("system", "developer"):
            continue
        if message["role"] != "user":
            raise ValueError(
                "the user must speak first, after at most a system message; received a "
                f"conversation in which message {i} is the first other one, and has the role "
                f"{message['role']!r}"
            )
        break
    return conversation


def check_last(messages: Sequence[Mapping[str, Any]]) -> None:
    """Check that the last message of a conversation is one to reply to.

    Raises:
        ValueError: If the last message is the assistant's.
    """
    if messages[-1]["role"] == "assistant":
        raise ValueError(
            "the last message must be one to reply to; received one with role 'assistant'"
        )


def _checked(message: Any, number: int) -> dict[str, Any]:
    where = f"message {number} of the conversation"
    if not isinstance(message, Mapping):
        raise ValueError(
            f'{where} must be a dictionary like {{"role": "user", "content": "Hello"}}; received '
            f"{_shown(message)}"
        )
    if "role" not in message:
        raise ValueError(f"{where} has no role; its keys are {list(message)}")
    role = message["role"]
    if role not in ROLES:
        raise ValueError(
            f"{where} must have one of the roles {', '.join(ROLES)}; received {role!r}"
        )
    content = message.get("content")
    if isinstance(content, list | tuple):
        try:
            content = joined_parts(content)
        except ValueError as error:
            raise ValueError(f"the content of {where} {error}") from None
    if content is None and not message.get("tool_calls"):
        raise ValueError(f"{where} (with role {role!r}) has no content")
    if content is not None and not isinstance(content, str):
        raise ValueError(f"{where} must have a text as its content; received {_shown(content)}")
    made = {str(k): plain(v, where) for k, v in message.items() if v is not None}
    if content is not None:
        made["content"] = content
    thoughts = next((made[name] for name in _REASONING if name in made), None)
    return made if thoughts is None else {"thinking": thoughts, **made, _REASONING[0]: thoughts}


def joined_parts(parts: Sequence[Any]) -> str:
    """Join the parts of a content, such as `{"type": "text", "text": "Hello"}`.

    Raises:
        ValueError: If a part is not text (the message continues after the name of the content).
    """
    texts = []
    for number, part in enumerate(parts, 1):
        if not isinstance(part, Mapping):
            raise ValueError(
                f"must be a text or a list of parts, each with type and text; part {number} is "
                f"{_shown(part)}"
            )
        given = {key: value for key, value in part.items() if value is not None}
        kind, text = given.pop("type", "text"), given.pop("text", None)
        if kind not in _TEXT_PARTS:
            raise ValueError(
                f"must have parts of type text only, since the model sees nothing else; part "
                f"{number} has the type {kind!r}"
            )
        others = [key for key, value in given.items() if value and key not in _PART_EXTRAS]
        if not isinstance(text, str) or others:
            found = ", ".join(map(repr, (*given, "text" if text is not None else "type")))
            raise ValueError(
                f"must have parts with only type and text; part {number} has the keys {found}"
            )
        texts.append(text)
    return "".join(texts)


def plain(value: Any, where: str) -> Any:
    """Copy a value that consists only of dictionaries, lists, strings and numbers, as in JSON.

    Raises:
        ValueError: If it contains anything else.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    raise ValueError(
        f"{where} must hold text, numbers, lists and dictionaries; received {_shown(value)}"
    )


def size(value: Any) -> int:
    """The number of characters and items in a plain value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(size(key) + size(item) + 1 for key, item in value.items())
    if isinstance(value, list):
        return sum(size(item) + 1 for item in value)
    return 8


class WordBreaker:
    """Puts U+FDD0 into text that would be parsed as a special token.

    Args:
        special_tokens: Special tokens of the tokenizer.
    """

    def __init__(self, special_tokens: Iterable[str]) -> None:
        self._tokens = tuple(token for token in special_tokens if token)
        self._first = {token[0] for token in self._tokens}
        self._beginnings = {t[:i] for t in self._tokens for i in range(1, len(t))}
        self._longest = max(map(len, self._tokens), default=0)

    def __call__(self, value: Any) -> Any:
        """Break all special tokens in a text, or in the texts of a plain value.

        The beginning of a special token at the end of a text is broken as well, since a template
        may join texts. U+FDD0 to U+FDD5 in the text become U+FFFD.
        """
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item) for item in value]
        return self._broken(value) if isinstance(value, str) else value

    def _broken(self, text: str) -> str:
        text = _RESERVED.sub("\ufffd", valid_text(text))
        if not any(character in text for character in self._first):
            return text
        end = len(text.rstrip())
        pieces = []
        begin = 0
        for i, character in enumerate(text):
            if character not in self._first:
                continue
            unfinished = end - i < self._longest and text[i:end] in self._beginnings
            if unfinished or text.startswith(self._tokens, i):
                pieces.append(text[begin : i + 1])
                begin = i + 1
        return BREAK.join([*pieces, text[begin:]])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
