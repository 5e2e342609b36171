"""A conversation that goes on: what was said so far, and the next reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.tasks.chat import Chat


class ChatSession:
    """A conversation of somebody with a model.

    Args:
        task: the model.
        system: words of a system message; empty for none, so that the template's own hold.
        options: as `Chat.reply` takes them.

    Attributes:
        messages: the conversation so far.
    """

    def __init__(self, task: Chat, *, system: str = "", **options: Any) -> None:
        self._task = task
        self._options = options
        self._begin = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._begin)

    def say(self, words: str) -> Iterator[str]:
        """The reply to what the user says, piece by piece.

        The two become part of the conversation with the reply's last piece; if it is not read to
        its end, or fails, the conversation is as it was before.

        Raises:
            ValueError: as `Chat.stream_reply`, at once.
        """
        asked = [*self.messages, {"role": "user", "content": words}]
        return self._reply(asked, self._task.stream_reply(asked, **self._options))

    def _reply(self, asked: list[dict[str, Any]], pieces: Iterator[str]) -> Iterator[str]:
        reply = ""
        for piece in pieces:
            reply += piece
            yield piece
        self.messages = [*asked, {"role": "assistant", "content": reply}]

    def clear(self) -> None:
        """Begin anew, with the same system message."""
        self.messages = list(self._begin)
