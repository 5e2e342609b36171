"""Read records that are training examples, in which the assistant's words are learned.

- `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}`: a
  conversation, optionally with a system message at its start. The list may be called
  `conversations`, and its messages may use ShareGPT's names: `from` (human, gpt, tool,
  function_call, observation, ...) and `value`. A content may be a list of parts of type text. An
  assistant's message with `"weight": 0` is not learned.
- `{"prompt": ..., "response": ...}`: a question and its answer. The prompt may be called
  `instruction`, `question`, `query` or (together with `output`) `input`, the response `completion`,
  `output` or `answer`. An `input` or a `context` is appended to the prompt after an empty line;
  `history`, a list of pairs, precedes it. Prompt and response may be lists of messages; then only
  the response's messages are learned.
- `{"text": ...}`: a text, all of which is learned.

In addition, `system` is the system message, and `tools`, `documents` and `chat_template_kwargs` are
variables of the chat template. A record whose `label` is false (a bad answer, as in KTO's format)
is left out, and counted. `tfllm.data.reading.record_keys` lists all supported keys; other keys are
ignored, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tfllm.data.reading.conversation_strings import (
    Message,
    is_messages,
    message_of,
    stripped,
    transcript,
)
from tfllm.data.reading.example import Example
from tfllm.data.reading.example_messages import (
    MessageReader,
    parsed,
    string,
)
from tfllm.data.reading.json_records import BadRecord, JsonRecord, json_type, keys_of
from tfllm.data.reading.record_keys import RecordKeys, RecordView, ignoring, is_blank

_TEMPLATE_VARIABLES = ("tools", "documents", "chat_template_kwargs")
_OF_A_PROMPT = ("input", "context", "history", "reasoning")
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class ExampleReader:
    """Converts records to examples, and counts the keys that it ignores.

    Args:
        text_field: key of a text.
        columns: maps names of `record_keys.SUPPORTED` to keys in the files.
        ignored: keys to ignore although they have a meaning.
        has_template: whether there is a chat template, so that transcripts become conversations.
        reads: tells whether the chat template reads a key of a message.
    """

    def __init__(
        self,
        *,
        text_field: str = "text",
        columns: Mapping[str, str] | None = None,
        ignored: Sequence[str] = (),
        has_template: bool = True,
        reads: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self.unused: Counter[str] = Counter()
        """keys of records that were ignored, and the number of records that have them"""
        self.left_out: list[str] = []
        """places of the records that are marked as not to be learned"""
        self._keys = RecordKeys({"text": text_field, **(columns or {})}, ignored)
        self._messages = MessageReader(reads, ignored)
        self._has_template = has_template
        self._columns = bool(columns)

    @property
    def unused_in_messages(self) -> Counter[str]:
        """Keys of messages that were ignored, and their counts."""
        return self._messages.unused

    def __call__(self, record: JsonRecord) -> Example | None:
        """Convert a record to an example; None if it is marked as not to be learned.

        Raises:
            BadRecord: the record is malformed, or contains an unsupported key.
        """
        given = self._opened(record)
        if self._is_left_out(given):
            self.left_out.append(given.where)
            return None
        made = self._read(given)
        given.count(self.unused)
        return made

    # ------------------------------------------------------------------

    def _read(self, given: RecordView) -> Example:
        variables = self._variables(given)
        self._refuse_half_a_preference(given)
        form = given.form()
        if form == "messages":
            return self._of_messages(given, variables)
        if form == "pair":
            return self._of_pair(given, variables)
        if form == "text":
            name, value = given.pick("text")
            given.refuse_beside(name, "system", "history", *_TEMPLATE_VARIABLES)
            return Example(given.where, text=string(value, name, given.where))
        raise BadRecord(
            given.where,
            " must have the keys messages, or prompt and response, or instruction and output, or "
            f"{self._keys.columns['text']}; its keys are: {keys_of(given.value)}; name the right "
            "ones with --columns prompt=NAME response=NAME (in Python columns={...})",
        )

    def _refuse_half_a_preference(self, given: RecordView) -> None:
        """Refuse a record with only one of chosen and rejected, whose words would be ignored."""
        found = [n for n in ("chosen", "rejected") if given.names(n) and not given.is_blank(n)]
        if len(found) == 1:
            key = given.names(found[0])[0]
            raise BadRecord(
                given.where,
                f" has {key!r}, but a preference has both chosen and rejected; give both, or "
                f"{ignoring(key)}",
            )

    def _opened(self, record: JsonRecord) -> RecordView:
        if not isinstance(record.value, dict):
            raise BadRecord(
                record.where, f" must be a JSON object; received {json_type(record.value)}"
            )
        given = RecordView(record, self._keys)
        refused = self._keys.refused(record.value)
        if refused is not None:
            key, advice = refused
            raise BadRecord(
                given.where,
                f" has {key!r}, which is not supported: {advice}; or {ignoring(key)}",
            )
        for name, key in self._keys.columns.items():
            if self._columns and name != "text" and not given.names(name):
                raise BadRecord(
                    given.where,
                    f" has no key {key!r}, which columns gives for {name}; its keys are: "
                    f"{keys_of(given.value)}",
                )
        return given

    def _is_left_out(self, given: RecordView) -> bool:
        for name in ("label", "weight"):
            if given.names(name) and not self._is_true(given, name):
                return True
        return False

    def _is_true(self, given: RecordView, name: str) -> bool:
        key, value = given.pick(name)
        if is_blank(value):
            return True
        truth = _TRUTH.get(str(value).strip().lower())
        if truth is None:
            rule = (
                "true or false (whether the answer is a good one, as in KTO's format)"
                if name == "label"
                else "0 (not learned) or 1; other weights are not supported"
            )
            raise BadRecord(
                given.where,
                f": {key!r} of an example must be {rule}; received {value!r:.60}; fix it, or "
                f"{ignoring(key)}",
            )
        return truth

    def _variables(self, given: RecordView) -> dict[str, Any]:
        """The variables of the chat template besides the messages."""
        variables: dict[str, Any] = {}
        for name in _TEMPLATE_VARIABLES:
            if not given.names(name):
                continue
            key, value = given.pick(name)
            value = parsed(value, key, given.where)
            if is_blank(value):
                continue
            if name == "chat_template_kwargs":
                fits, noun, found = isinstance(value, dict), "an object", value
            else:
                fits = isinstance(value, list) and all(isinstance(item, dict) for item in value)
                noun, found = "a list of objects", {name: value}
            if not fits:
                received = json_type(value)
                raise BadRecord(
                    given.where,
                    f": {key!r} must be {noun}; received {received}; fix it, or {ignoring(key)}",
                )
            variables |= found
        if variables and not self._has_template:
            raise BadRecord(
                given.where,
                f" has {', '.join(map(repr, variables))}, which needs a chat template, but the "
                "tokenizer has none",
            )
        return variables

    def _of_messages(self, given: RecordView, variables: dict[str, Any]) -> Example:
        name, value = given.pick("messages")
        messages = checked_start(self._messages(value, name, given.where), given.where)
        given.refuse_beside(name, *_OF_A_PROMPT)
        for key in given.names("prompt"):  # often a copy of the first message
            words = given.value[key]
            if isinstance(words, str) and not any(
                words.strip() in message.get("content", "") for message in messages
            ):
                given.refuse_beside(name, "prompt")
        if messages[-1]["role"] != "assistant":
            given.refuse_beside(name, "response")
        messages = self._with_system(given, messages)
        return Example(given.where, (messages,), variables=variables)

    def _of_pair(self, given: RecordView, variables: dict[str, Any]) -> Example:
        where = given.where
        asked = self._asked(given)
        assert asked is not None
        name, value = given.pick("response")
        if not isinstance(value, list | dict):
            string(value, name, where)
        answer = self._reply(name, value, where, is_transcript=False)
        if asked.form == "transcript":
            answer = stripped(answer)
        plain = asked.form == "string" and given.is_string("response")
        if answer[0]["role"] == "system" or not any(m["role"] == "assistant" for m in answer):
            roles = ", ".join(message["role"] for message in answer)
            raise BadRecord(
                where,
                f": {name!r} must contain the assistant's words; received messages of {roles}",
            )
        if given.names("reasoning") and not given.is_blank("reasoning"):
            key, thoughts = given.pick("reasoning")
            answer[0] = {**answer[0], "reasoning_content": string(thoughts, key, where)}
            plain = False
        messages = self._with_system(given, checked_start([*asked.messages, *answer], where))
        return Example(where, (messages,), plain=plain and not variables, variables=variables)

    def _asked(self, given: RecordView) -> _Asked | None:
        """The prompt of a record; None if it has none."""
        where = given.where
        used = "prompt" if given.names("prompt") else "input"
        if not given.names(used) or (used == "input" and given.names("messages")):
            return None
        name, value = given.pick(used)
        if value is None and not given.is_pair:
            return None
        others = ("input", "context") if used == "prompt" else ("context",)
        if not isinstance(value, list | dict):
            string(value, name, where)
        turns = transcript(value) if self._has_template and isinstance(value, str) else None
        if turns is not None or not given.is_string(used):
            given.refuse_beside(name, *others, "history")
            form = "messages" if turns is None else "transcript"
            messages = self._reply(name, value, where) if turns is None else turns
            if given.is_pair:  # only the response is learned
                messages = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages]
            return _Asked(messages, form)
        question = value
        for other in others:
            if given.names(other) and not given.is_blank(other):
                key, more = given.pick(other)
                more = string(more, key, where)
                question = f"{question}\n\n{more}" if more.strip() else question
        before = self._history(given)
        messages = [*before, message_of("user", question)]
        return _Asked(messages, "history" if before else "string")

    def _history(self, given: RecordView) -> list[Message]:
        """The turns before a prompt: pairs of a question and its answer, or messages."""
        if not given.names("history"):
            return []
        key, value = given.pick("history")
        value = parsed(value, key, given.where)
        if is_blank(value):
            return []
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
            return self._messages(value, key, given.where)
        messages = []
        for number, turn in enumerate(value if isinstance(value, list) else [value], 1):
            if not isinstance(turn, list) or len(turn) != 2:
                raise BadRecord(
                    given.where,
                    f": {key!r} must be a list of pairs of a question and its answer; turn "
                    f"{number} is {json_type(turn)}",
                )
            what = f"turn {number} of {key}"
            question, answer = (string(words, what, given.where) for words in turn)
            messages += [message_of("user", question), message_of("assistant", answer)]
        return messages

    def _reply(
        self, name: str, value: Any, where: str, *, is_transcript: bool = True
    ) -> list[Message]:
        """The messages in a list, a single message, or a string (the assistant's words, or a
        transcript)."""
        if isinstance(value, str) and not is_messages(value):
            turns = transcript(value) if self._has_template and is_transcript else None
            return turns or [message_of("assistant", string(value, name, where))]
        return self._messages([value] if isinstance(value, dict) else value, name, where)

    def _with_system(self, given: RecordView, messages: list[Message]) -> list[Message]:
        if not given.names("system") or given.is_blank("system"):
            return messages
        key, value = given.pick("system")
        system = message_of("system", string(value, key, given.where))
        if messages[0]["role"] not in ("system", "developer"):
            return [system, *messages]
        if messages[0].get("content") != system["content"]:
            raise BadRecord(
                given.where,
                f" has two system messages, {key!r} and the first of its messages, which differ; "
                "keep one",
            )
        return messages


class _Asked(NamedTuple):
    """A prompt."""

    messages: list[Message]
    form: str
    """"string", "history" (a string after earlier turns), "transcript" or "messages" """


def checked_start(messages: list[Message], where: str) -> list[Message]:
    """Check that the first message, after system messages, is not the assistant's.

    Raises:
        BadRecord: it is.
    """
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if spoken[:1] == ["assistant"]:
        raise BadRecord(
            where,
            ": a conversation must not start with the assistant; put the user's message before it",
        )
    return messages
