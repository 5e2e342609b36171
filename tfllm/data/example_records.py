"""Records that are examples to learn from, and those that are preferences.

Examples, of which the assistant's words are learned:

- `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}`: a
  conversation, perhaps with a system message before it.
- `{"prompt": ..., "response": ...}`, or `instruction`, `input` (may be missing or empty) and
  `output` as in Alpaca's files, or `completion` for `response`: a question and its answer. An
  `input` goes behind its instruction, an empty line between them.
- `{"text": ...}`: a text, all of which is learned.

Preferences, of whose last replies one is to become likelier than the other:

- `{"prompt": ..., "chosen": ..., "rejected": ...}`: strings, or lists of messages (a single message
  may do without the list); `chosen` and `rejected` may begin with the messages of the prompt, and
  `prompt` may then be missing.

Next to either, `system` holds the system message. `messages`, and the list of a prompt, may be
called `conversations`, and their messages may have ShareGPT's names: `from` (system, human, gpt)
and `value`. Other keys are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tfllm.data.json_records import (
    BadRecord,
    JsonRecord,
    check_characters,
    json_type,
    keys_of,
)
from tfllm.data.record_kinds import CONVERSATIONS, PROMPTS, RESPONSES

Message = dict[str, Any]

_SHARE_GPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Example:
    """A record, made uniform."""

    where: str
    """its file and line"""
    conversations: tuple[list[Message], ...] = ()
    """one; of a preference the chosen and the rejected one; none of a text"""
    num_prompt: int = 0
    """of a preference: how many messages the two share, of which nothing is learned"""
    plain: bool = False
    """a prompt and a response, which can do without a chat template"""
    text: str | None = None

    def key(self) -> str:
        """The whole example as a text, the same for the same example."""
        return json.dumps([self.text, self.conversations], ensure_ascii=False, sort_keys=True)

    def size(self) -> int:
        """About how many characters it has."""
        if self.text is not None:
            return len(self.text)
        return sum(len(m["content"]) + 16 for c in self.conversations for m in c)


def read_example(record: JsonRecord, text_field: str = "text") -> Example:
    """An example to learn from.

    Raises:
        BadRecord: the record is none.
    """
    where, value = record.where, _object(record)
    name = next((key for key in CONVERSATIONS if key in value), None)
    if name is not None:
        messages = _conversation(_messages(value[name], name, where), where)
        return Example(where, (_with_system(value, messages, where),))
    prompt = next((key for key in PROMPTS if key in value), None)
    response = next((key for key in RESPONSES if key in value), None)
    if prompt is not None and response is not None:
        question = _string(value[prompt], prompt, where)
        more = _string(value.get("input") or "", "input", where) if prompt == "instruction" else ""
        if more.strip():
            question = f"{question}\n\n{more}"
        answer = _string(value[response], response, where)
        messages = [_message("user", question), _message("assistant", answer)]
        return Example(where, (_with_system(value, messages, where),), plain=True)
    if text_field in value:
        return Example(where, text=_string(value[text_field], text_field, where))
    raise BadRecord(
        where,
        f" must have the keys messages, or prompt and response, or instruction and output, or "
        f"{text_field}; its keys are: {keys_of(value)}",
    )


def read_preference(record: JsonRecord) -> Example:
    """A prompt with a chosen and a rejected reply.

    Raises:
        BadRecord: the record is none.
    """
    where, value = record.where, _object(record)
    missing = [key for key in ("chosen", "rejected") if key not in value]
    if missing:
        raise BadRecord(
            where,
            f" has no key {missing[0]!r}; a preference has prompt, chosen and rejected; its keys "
            f"are: {keys_of(value)}",
        )
    chosen, rejected = (_reply(value[key], key, where) for key in ("chosen", "rejected"))
    strings = [isinstance(value.get(key), str) for key in ("prompt", "chosen", "rejected")]
    name = next((key for key in ("prompt", *CONVERSATIONS) if key in value), None)
    if name is not None:
        prompt = value[name]
        prompt = (
            [_message("user", _string(prompt, name, where))]
            if isinstance(prompt, str)
            else _messages(prompt, name, where)
        )
        chosen, rejected = (
            reply[len(prompt) :] if reply[: len(prompt)] == prompt else reply
            for reply in (chosen, rejected)
        )
    else:
        shared = 0
        while chosen[shared : shared + 1] == rejected[shared : shared + 1] != []:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise BadRecord(where, " has no prompt: add one, or begin both replies with it")
    for key, reply in (("chosen", chosen), ("rejected", rejected)):
        if not reply or reply[0]["role"] != "assistant" or reply[-1]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in reply) or "nothing"
            raise BadRecord(
                where,
                f": behind the prompt, {key} must begin and end with the assistant's words; "
                f"received {roles}",
            )
    prompt = _with_system(value, _conversation(prompt, where), where)
    return Example(
        where, (prompt + chosen, prompt + rejected), num_prompt=len(prompt), plain=all(strings)
    )


def _object(record: JsonRecord) -> dict[str, Any]:
    if not isinstance(record.value, dict):
        raise BadRecord(record.where, f" must be a JSON object; received {json_type(record.value)}")
    return record.value


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(
            where, f": the value of {name!r} must be a string; received {json_type(value)}"
        )
    check_characters(value, where, name)
    return value


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _reply(value: Any, name: str, where: str) -> list[Message]:
    if isinstance(value, str):
        return [_message("assistant", _string(value, name, where))]
    return _messages([value] if isinstance(value, dict) else value, name, where)


def _messages(value: Any, name: str, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        received = "an empty one" if value == [] else json_type(value)
        raise BadRecord(
            where, f": {name!r} must be a list of messages, one at least; received {received}"
        )
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise BadRecord(
                where,
                f": message {number} of {name!r} must be an object with role and content; received "
                f"{json_type(message)}",
            )
        if "role" not in message and "from" in message and "value" in message:
            role = message["from"]
            role = _SHARE_GPT_ROLES.get(role, role) if isinstance(role, str) else role
            message = {"role": role, "content": message["value"]}
        for key in ("role", "content"):
            if key not in message:
                raise BadRecord(
                    where,
                    f": message {number} of {name!r} has no {key}; its keys are: "
                    f"{keys_of(message)}",
                )
            _string(message[key], f"{key} of message {number} of {name}", where)
        messages.append(message)
    return messages


def _conversation(messages: list[Message], where: str) -> list[Message]:
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if spoken[:1] == ["assistant"]:
        raise BadRecord(
            where,
            ": a conversation must not start with the assistant; put the user's message before it",
        )
    return messages


def _with_system(value: dict[str, Any], messages: list[Message], where: str) -> list[Message]:
    system = value.get("system")
    if system is None or system == "" or messages[0]["role"] == "system":
        return messages
    return [_message("system", _string(system, "system", where)), *messages]
