"""A conversation that goes on: what was said so far, and the next reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.tasks.language_model.chat import Chat


class ChatSession:
    """A conversation of somebody with a model.

    Args:
        task: the model.
        system: words of a system message; empty for none, so that the template's own hold.
        options: as `Chat.reply` takes them.

    Attributes:
        messages: the conversation so far.
        options: of the next replies.
        system: the system message.
    """

    def __init__(self, task: Chat, *, system: str = "", **options: Any) -> None:
        self._task = task
        self.options = options
        self.system = system
        self.messages: list[dict[str, Any]] = self._begin

    def say(self, words: str) -> Iterator[str]:
        """The reply to what the user says, piece by piece.

        The two become part of the conversation with the reply's last piece; if it is not read to
        its end, or fails, the conversation is as it was before.

        Raises:
            ValueError: as `Chat.stream_reply`, at once.
        """
        asked = [*self.messages, {"role": "user", "content": words}]
        return self._reply(asked, self._task.stream_reply(asked, **self.options))

    def _reply(self, asked: list[dict[str, Any]], pieces: Iterator[str]) -> Iterator[str]:
        reply = ""
        for piece in pieces:
            reply += piece
            yield piece
        self.messages = [*asked, {"role": "assistant", "content": reply}]

    def clear(self) -> None:
        """Begin anew, with the same system message."""
        self.messages = self._begin

    def set_system(self, words: str) -> None:
        """Have another system message from now on, or none; what was said stays.

        Args:
            words: of the message; empty for none.
        """
        said = self.messages[len(self._begin) :]
        self.system = words
        self.messages = [*self._begin, *said]

    def undo(self) -> str | None:
        """Forget the last turn; what was asked in it, or None where there is none."""
        said = self.messages[len(self._begin) :]
        if not said:
            return None
        self.messages = self.messages[:-2]
        return said[-2]["content"]

    @property
    def _begin(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []
