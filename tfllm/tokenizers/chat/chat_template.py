"""Chat templates: conversations as the text, and the token ids, that a model was trained on.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfllm.tokenizers.chat import conversation
from tfllm.tokenizers.chat.assistant_spans import assistant_spans, end_of_turn, writes_an_end
from tfllm.tokenizers.chat.template_program import TemplateProgram

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

Messages = Sequence[Mapping[str, Any]]
"""The messages in order: `{"role": "system" | "user" | "assistant" | ..., "content": str or
parts}`"""


class ChatTemplate:
    """The jinja2 template of a chat model, run in a sandbox with limits, as in `transformers`.

    A special token within the words of a message stays text: `render` returns the text for a human
    reader, while `prompt` and `encode` distinguish it from the template's own special tokens.

    Args:
        source: Text of the template.
        special_tokens: Special tokens of the tokenizer, as they are written. Defaults to none.
        variables: Variables of the template besides the messages, such as `bos_token`. Defaults to
            none.
        tokenizer: Tokenizer for `encode` and `encode_for_training`. Defaults to none.

    Raises:
        ValueError: If the source is not a valid template, or uses something that is not allowed.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Iterable[str] = (),
        variables: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.source = source
        self.special_tokens = tuple(special_tokens)
        self.variables = dict(variables or {})
        self.tokenizer = tokenizer
        self.program = TemplateProgram(source, self.variables)
        self._break = conversation.WordBreaker(self.special_tokens)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template that a tokenizer came with.

        Raises:
            ValueError: If it came without a template, or with one that cannot be used.
        """
        source = _source(tokenizer.settings.get("chat_template"))
        if source is None:
            raise ValueError(
                "the tokenizer has no chat template, so it is not known how this model writes a "
                "conversation; use a chat model (often named Instruct or Chat), or put its "
                "template into the folder as chat_template.jinja"
            )
        return cls(
            source,
            special_tokens=tokenizer.special_tokens,
            variables=_variables(tokenizer),
            tokenizer=tokenizer,
        )

    @classmethod
    def from_json(cls, text: str) -> ChatTemplate:
        """Read the result of `to_json`; without a tokenizer, so it can render but not encode.

        Raises:
            ValueError: If the text is not such a result.
        """
        try:
            values = json.loads(text)
            source, tokens = values["chat_template"], values["special_tokens"]
            return cls(source, special_tokens=tokens, variables=values["variables"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"not a chat template that tfllm wrote: {error!r}") from None

    def to_json(self) -> str:
        """Everything that a client needs to write prompts, as JSON."""
        values = {
            "chat_template": self.source,
            "special_tokens": list(self.special_tokens),
            "variables": self.variables,
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def render(
        self, messages: Messages, *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Write a conversation as text.

        Args:
            messages: The conversation.
            add_generation_prompt: Whether to end with the text before the assistant's next words.
                Defaults to False.
            variables: Other variables of the template, such as `tools` or `enable_thinking`.

        Raises:
            ValueError: If the conversation is not well formed, or the template refuses it or does
                not end.
        """
        given = conversation.checked(messages)
        return self.program.run(given, add_generation_prompt, self._checked_variables(variables))

    def prompt(
        self, messages: Messages, *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Like `render`, but as text for a tokenizer: special tokens that are not the template's
        own contain U+FDD0.

        This is what a served model's signature `chat_prompt` takes and what
        `Tokenizer.encode_unbroken` encodes.
        """
        given = self._break(conversation.checked(messages))
        chosen = self._break(self._checked_variables(variables))
        return self.program.run(given, add_generation_prompt, chosen)

    def encode(
        self, messages: Messages, *, add_generation_prompt: bool = False, **variables: Any
    ) -> list[int]:
        """Convert a conversation to token ids; for arguments and errors see `render`."""
        text = self.prompt(messages, add_generation_prompt=add_generation_prompt, **variables)
        return self._tokenizer.encode_unbroken(text)[0]

    def encode_for_training(
        self, messages: Messages, **variables: Any
    ) -> tuple[list[int], list[bool]]:
        """Convert a conversation to token ids, and say which of them are to be learned.

        The assistant's words are learned, including the token that ends its turn: what the template
        marks with `{% generation %}`, or else everything after the prompt for that turn. A token
        that begins before the assistant's words is not learned, and neither is a message whose
        `weight` is 0.

        Args:
            messages: The conversation.
            variables: Other variables of the template.

        Returns:
            The ids, and a boolean for each.

        Raises:
            ValueError: See `render`; also if the template rewrites the assistant's words, so that
                they cannot be found.
        """
        given = self._break(conversation.checked(messages))
        chosen = self._break(self._checked_variables(variables))
        text, spans = assistant_spans(self.program, given, chosen, self._end_tokens)
        ids, starts = self._tokenizer.encode_unbroken(text)
        learned = [any(begin <= start < end for begin, end in spans) for start in starts]
        return ids, learned

    @functools.cached_property
    def end_of_turn(self) -> str | None:
        """The special token that the template writes behind the assistant's words, if it does."""
        return end_of_turn(self.program, self.special_tokens)

    @property
    def writes_an_end(self) -> bool:
        """Whether the template ends the assistant's words with a token at which the model stops.

        Without one, a model learns never to stop.
        """
        return writes_an_end(self.program, self._end_tokens)

    def mentions(self, name: str) -> bool:
        """Whether a variable, an attribute or a text of the template is `name`."""
        return name in self.program.names

    # ------------------------------------------------------------------

    @property
    def _end_tokens(self) -> list[str]:
        """The tokens at which an answer ends, the longest first."""
        found = {self.end_of_turn}
        if self.tokenizer is not None:
            ids = self.tokenizer.end_token_ids
            found |= {t for t, id_ in self.tokenizer.special_tokens.items() if id_ in ids}
        return sorted((token for token in found if token), key=len, reverse=True)

    @property
    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this chat template has no tokenizer: it can only render")
        return self.tokenizer

    def _checked_variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        return {name: conversation.plain(v, f"{name}=...") for name, v in variables.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(
            ChatTemplate,
            special_tokens=self.special_tokens,
            variables=self.variables,
            tokenizer=self.tokenizer,
        )
        return make, (self.source,)


def _source(setting: Any) -> str | None:
    """The template in a setting; if there are several named ones, the default one.

    Raises:
        ValueError: If there are several, and none of them is named default.
    """
    if isinstance(setting, list):
        with contextlib.suppress(KeyError, TypeError):
            setting = {entry["name"]: entry["template"] for entry in setting}
    if isinstance(setting, dict):
        if "default" not in setting:
            raise ValueError(
                "of several chat templates one must be named default; received "
                f"{', '.join(map(repr, setting))}"
            )
        setting = setting["default"]
    if setting is not None and not isinstance(setting, str):
        raise ValueError(f"a chat template must be text; received {type(setting).__name__}")
    return setting or None


def _variables(tokenizer: Tokenizer) -> dict[str, Any]:
    """The special tokens by name, such as `bos_token`."""
    found: dict[str, Any] = {}
    for name, token in tokenizer.settings.items():
        content = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    with contextlib.suppress(ValueError):
        found["eos_token"] = tokenizer.end_token
    return found
