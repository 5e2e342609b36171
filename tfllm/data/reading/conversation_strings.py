"""Conversations given as strings: transcripts, messages as JSON, texts with a common beginning."""

from __future__ import annotations

import re
from typing import Any

Message = dict[str, Any]

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_STARTS = ('[{"role"', '[{"from"', '[{"content"', "[{'role'", "[{'from'", "[{'content'")


def message_of(role: str, content: str) -> Message:
    """A message with a role and a content."""
    return {"role": role, "content": content}


def is_messages(text: str) -> bool:
    """Whether a string is a list of messages as JSON, as in a cell of a table."""
    return text.lstrip().startswith(_STARTS)


def transcript(text: str) -> list[Message] | None:
    """Parse `"\\n\\nHuman: ...\\n\\nAssistant: ..."`, the format of HH-RLHF; None for other texts.

    White space around the words is dropped, and so is an empty last turn, at which a prompt ends.
    """
    pieces = _SPEAKER.split(text)
    speakers, words = pieces[1::2], pieces[2::2]
    if speakers[:1] != ["Human"] or "Assistant" not in speakers or pieces[0].strip():
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        message_of(roles[who], said.strip()) for who, said in zip(speakers, words, strict=True)
    ]
    return turns if turns[-1]["content"] else turns[:-1]


def stripped(messages: list[Message]) -> list[Message]:
    """Messages without white space around their contents."""
    return [{**m, "content": m["content"].strip()} if "content" in m else m for m in messages]


def common_words(
    chosen: Message, rejected: Message
) -> tuple[list[Message], list[Message], list[Message]]:
    """Split two texts into their common beginning, which is the prompt, and the two replies.

    The replies begin with the space before the first word that differs. The prompt is empty if the
    texts have no common beginning, or are equal.
    """
    first, second = chosen["content"], rejected["content"]
    pairs = zip(first, second, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    begin = first.rfind(" ", 0, shared + 1)
    if begin <= 0 or first == second:
        return [], [chosen], [rejected]
    replies = [[message_of("assistant", text[begin:])] for text in (first, second)]
    return [message_of("user", first[:begin])], replies[0], replies[1]
