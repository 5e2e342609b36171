"""A conversation with a model over several turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.tasks.language_model.chat import Chat


class ChatSession:
    """A conversation with a model over several turns.

    Args:
        task: the model.
        system: content of the system message; if empty, the template may add its default one.
            Defaults to "".
        options: generation options, as for `Chat.reply`.

    Attributes:
        messages: the conversation so far.
        options: generation options of the next replies.
        system: content of the system message.

    Examples:
        >>> import tfllm
        >>> from tfllm.tasks import ChatSession
        >>> tokenizer = tfllm.BytePairTokenizer.train(["Hello! How are you?"], vocab_size=300)
        >>> tokenizer.settings["chat_template"] = (
        ...     "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}"
        ...     "{% if add_generation_prompt %}assistant: {% endif %}"
        ... )
        >>> config = tfllm.ModelConfig(vocab_size=300, embedding_dim=16, num_layers=1, num_heads=2)
        >>> chat = tfllm.Chat(tfllm.CausalLM(config, seed=0), tokenizer)
        >>> session = ChatSession(chat, system="Be brief.", max_new_tokens=5)
        >>> reply = "".join(session.say("Hello!"))
        >>> [message["role"] for message in session.messages]
        ['system', 'user', 'assistant']
        >>> session.undo()
        'Hello!'
    """

    def __init__(self, task: Chat, *, system: str = "", **options: Any) -> None:
        self._task = task
        self.options = options
        self.system = system
        self.messages: list[dict[str, Any]] = self._begin

    def say(self, words: str) -> Iterator[str]:
        """Reply to a message of the user, piece by piece.

        Message and reply are added to the conversation with the last piece of the reply; if it is
        not read to its end, or fails, the conversation is unchanged.

        Args:
            words: content of the user's message.

        Raises:
            ValueError: as in `Chat.stream_reply`, before the first piece.
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
        """Start over with the same system message."""
        self.messages = self._begin

    def set_system(self, words: str) -> None:
        """Replace or remove the system message; the rest of the conversation is kept.

        Args:
            words: content of the message; empty for none.
        """
        said = self.messages[len(self._begin) :]
        self.system = words
        self.messages = [*self._begin, *said]

    def undo(self) -> str | None:
        """Remove the last turn; returns the user's message, or None if there is no turn."""
        said = self.messages[len(self._begin) :]
        if not said:
            return None
        self.messages = self.messages[:-2]
        return said[-2]["content"]

    @property
    def _begin(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}] if self.system else []
