"""An example or a preference, independent of the format of its record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tfllm.data.reading.conversation_strings import Message
from tfllm.tokenizers.chat import conversation


@dataclass(frozen=True)
class Example:
    """An example or a preference in a uniform form."""

    where: str
    """file and line of its record"""
    conversations: tuple[list[Message], ...] = ()
    """one conversation; for a preference, the chosen and the rejected one; empty for a text"""
    num_prompt: int = 0
    """for a preference: number of messages in the common prompt, which is not learned"""
    plain: bool = False
    """whether it is a prompt and a response, which do not need a chat template"""
    text: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    """further variables of the chat template besides the messages, such as `tools`"""

    def key(self) -> str:
        """A string that identifies the content of the example."""
        parts: list[Any] = [self.text, self.conversations]
        parts += [self.variables] if self.variables else []
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate in a tool call or the description of a tool
            return json.dumps(parts, sort_keys=True, default=str)
        return text

    def size(self) -> int:
        """Approximate number of characters."""
        if self.text is not None:
            return len(self.text)
        messages = (message for messages in self.conversations for message in messages)
        return sum(
            len(message.get("content", "")) + 16 + conversation.size(message.get("tool_calls", ""))
            for message in messages
        )
