"""The meaning of the keys of records.

Keys that affect what is learned are either supported or refused with an error that names them. All
other keys are ignored, and counted for the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.data.reading.conversation_strings import is_messages
from tfllm.data.reading.json_records import BadRecord, JsonRecord

SUPPORTED: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "instruction", "question", "query"),
    "response": ("response", "completion", "output", "answer"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "text": ("text",),
    "input": ("input",),
    "context": ("context",),
    "history": ("history",),
    "system": ("system", "system_prompt", "system_message"),
    "reasoning": ("reasoning_content", "thinking", "reasoning"),
    "tools": ("tools",),
    "documents": ("documents",),
    "chat_template_kwargs": ("chat_template_kwargs",),
    "label": ("label", "kto_tag"),
    "weight": ("weight", "sample_weight", "loss_weight"),
}
"""maps each supported part of a record to its keys in common data sets"""

_SEVERAL = "write several answers to one prompt as separate records, or as chosen and rejected"
_NOT_TEXT = "text models do not support images, audio or video"
_CHOICES = "write the choices into the prompt, and the text of the right one as the response"
_TOKENS = "examples are given as text, which is tokenized here"
_PREFERENCES = (
    "rejected_response",
    "rejected_messages",
    "preferred_output",
    "non_preferred_output",
)
REFUSED: dict[str, str] = {
    **dict.fromkeys(("completions", "responses", "outputs", "answers", "candidates"), _SEVERAL),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _NOT_TEXT),
    **dict.fromkeys(("choices", "options"), _CHOICES),
    **dict.fromkeys(("input_ids", "token_ids", "labels"), _TOKENS),
    **dict.fromkeys(("loss_mask", "completion_mask", "assistant_masks"), _TOKENS),
    **dict.fromkeys(_PREFERENCES, "write the replies as chosen and rejected"),
    "functions": 'write tools, each as {"type": "function", "function": {...}}',
    "suffix": "to train infilling, give text and set fill_in_the_middle",
}
"""keys that are refused, and what to do instead"""

MESSAGE_WEIGHTS = ("weight", "loss", "train", "training")
"""keys that tell whether a message is learned"""
MESSAGE_REASONING = ("reasoning_content", "thinking", "reasoning")
REFUSED_IN_MESSAGES: dict[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _NOT_TEXT),
    "function_call": "write tool_calls, each as "
    '{"type": "function", "function": {"name": ..., "arguments": ...}}',
    **dict.fromkeys(("masked", "mask"), "give a message that is not learned the weight 0"),
    **dict.fromkeys(
        ("train_detail", "training_detail"), "a message is learned whole or not at all"
    ),
    "refusal": "write the text of the refusal as the content, or leave the record out",
}


_NAMED_KEYS = 20
"""maximum number of keys that a note lists"""


def is_blank(value: Any) -> bool:
    """Whether a value is equivalent to a missing key."""
    return value is None or value == "" or value == [] or value == {}


def ignoring(key: str) -> str:
    """Advice on how to ignore a key, for an error."""
    return f"ignore it with --ignore-keys {key} (in Python ignore_keys={(key,)!r})"


class RecordKeys:
    """Finds the parts of a record by its keys.

    Args:
        columns: maps names of `SUPPORTED` to keys in the files.
        ignored: keys that are ignored, whatever they mean.

    Raises:
        ConfigError: `columns` has a name that is not in `SUPPORTED`.
    """

    def __init__(
        self, columns: Mapping[str, str] | None = None, ignored: Sequence[str] = ()
    ) -> None:
        self._order: dict[str, int] = {}
        self._names: dict[str, str] = {}
        for name in columns or {}:
            if name not in SUPPORTED:
                raise ConfigError(unknown_name("column", name, SUPPORTED))
        self.columns = dict(columns or {})
        for name, keys in SUPPORTED.items():
            for key in () if name in self.columns else keys:
                self._names[key] = name
        for name, key in self.columns.items():
            self._names[_folded(key)] = name
        self._ignored = {_folded(key) for key in ignored}
        for key in self._ignored:
            self._names.pop(key, None)
        self._order = {key: number for number, key in enumerate(self._names)}

    def found(self, record: Mapping[str, Any]) -> dict[str, list[str]]:
        """Maps names of `SUPPORTED` to the keys of this record with that meaning.

        Keys are compared without case. Keys with blank values are left out unless all are blank.
        """
        keys: dict[str, list[str]] = {}
        for key in sorted(record, key=lambda key: self._order.get(_folded(key), 0)):
            if (name := self._names.get(_folded(key))) is not None:
                keys.setdefault(name, []).append(key)
        return {
            name: [key for key in those if not is_blank(record[key])] or those[:1]
            for name, those in keys.items()
        }

    def refused(self, record: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first key that is refused, and what to do instead."""
        for key, value in record.items():
            folded = _folded(key)
            if folded in self._names or folded in self._ignored or is_blank(value):
                continue
            if folded in REFUSED:
                return key, REFUSED[folded]
        return None


def note_of_unused(of: str, counts: Counter[str]) -> list[str]:
    """A note on the keys that were ignored, with the number of records that have them; an empty
    list if there are none."""
    if not counts:
        return []
    most = [f"{key!r} ({count:,})" for key, count in counts.most_common(_NAMED_KEYS)]
    more = f", and {len(counts) - _NAMED_KEYS:,} more" if len(counts) > _NAMED_KEYS else ""
    return [f"keys of {of} that were ignored: {', '.join(most)}{more}"]


def _folded(key: str) -> str:
    return key.strip().lower()


class RecordView:
    """View of a record by the meaning of its keys, which notes the keys that were used."""

    def __init__(self, record: JsonRecord, keys: RecordKeys) -> None:
        self.where = record.where
        self.value: dict[str, Any] = record.value
        self._found = keys.found(self.value)
        self._used: set[str] = set()

    def form(self) -> str:
        """The kind of example: "messages", "pair" or "text"; "" if it is none of them."""
        has = {
            "messages": ("messages",),
            "pair": ("prompt", "input", "response") if self.is_pair else (),
            "text": ("text",),
        }
        for form, names in has.items():
            if any(self.names(name) and not self.is_blank(name) for name in names):
                return form
        return next((form for form, names in has.items() if any(map(self.names, names))), "")

    @property
    def is_pair(self) -> bool:
        """Whether the record has a prompt and a response."""
        return bool(self.names("response") and (self.names("prompt") or self.names("input")))

    def names(self, name: str) -> list[str]:
        """The keys of the record with the meaning `name`."""
        return self._found.get(name, [])

    def is_blank(self, name: str) -> bool:
        """Whether the values with the meaning `name` are all blank."""
        return all(is_blank(self.value[key]) for key in self.names(name))

    def pick(self, name: str) -> tuple[str, Any]:
        """The key with the meaning `name`, and its value.

        Raises:
            BadRecord: several keys have this meaning, but different values.
        """
        keys = self.names(name)
        for key in keys[1:]:
            if self.value[key] != self.value[keys[0]]:
                raise BadRecord(
                    self.where,
                    f" has {keys[0]!r} and {key!r}, which both could be its {name}; name the right "
                    f"one with --columns {name}=NAME (in Python columns={{{name!r}: 'NAME'}})",
                )
        self._used.update(keys)
        return keys[0], self.value[keys[0]]

    def is_string(self, name: str) -> bool:
        """Whether the value with the meaning `name` is a string other than messages as JSON."""
        value = self.value[self.names(name)[0]]
        return isinstance(value, str) and not is_messages(value)

    def refuse_beside(self, name: str, *others: str) -> None:
        """Refuse keys that would be ignored because the record has `name`.

        Raises:
            BadRecord: the record has one of `others`.
        """
        for other in others:
            if self.names(other) and not self.is_blank(other):
                key = self.names(other)[0]
                raise BadRecord(
                    self.where,
                    f" has {key!r} next to {name!r}, which is not supported; write it into the "
                    f"messages, or {ignoring(key)}",
                )

    def count(self, unused: Counter[str]) -> None:
        """Count the keys that have a value and were not used."""
        for key, value in self.value.items():
            if key not in self._used and not is_blank(value):
                unused[key] += 1
