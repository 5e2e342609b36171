"""An example or a preference, whatever its record looked like."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tfllm.data.reading.conversation_strings import Message
from tfllm.tokenizers.chat import conversation


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
    variables: dict[str, Any] = field(default_factory=dict)
    """what the chat template gets besides the messages, such as `tools`"""

    def key(self) -> str:
        """The whole example as a text, the same for the same example."""
        parts: list[Any] = [self.text, self.conversations]
        parts += [self.variables] if self.variables else []
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair in a call or a description of a tool
            return json.dumps(parts, sort_keys=True, default=str)
        return text

    def size(self) -> int:
        """About how many characters it has."""
        if self.text is not None:
            return len(self.text)
        messages = (message for messages in self.conversations for message in messages)
        return sum(
            len(message.get("content", "")) + 16 + conversation.size(message.get("tool_calls", ""))
            for message in messages
        )
