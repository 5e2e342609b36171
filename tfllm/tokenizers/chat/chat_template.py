"""Chat templates: conversations as the text, and the token ids, that a model was trained on.

Importing this does not import TensorFlow.
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
"""`{"role": "system" | "user" | "assistant" | ..., "content": str or text parts}`, in order"""


class ChatTemplate:
    """The jinja2 template of a chat model, run in a sandbox with bounds, as `transformers` sees it.

    A special token in somebody's own words stays characters: `render` gives the text that a reader
    sees, `prompt` and `encode` keep it apart from the template's own.

    Args:
        source: the template.
        special_tokens: of the tokenizer, as they are written.
        variables: what the template sees besides the messages, such as `bos_token`.
        tokenizer: for `encode` and `encode_for_training`.

    Raises:
        ValueError: the source is no template, or asks for what it may not have.
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
            ValueError: it came with none, or with one that cannot be used.
        """
        source = _source(tokenizer.settings.get("chat_template"))
        if source is None:
            raise ValueError(
                "the tokenizer has no chat template, so the model does not say how a conversation "
                "is written; use a chat model (often named Instruct or Chat), or put its template "
                "into the folder as chat_template.jinja"
            )
        return cls(
            source,
            special_tokens=tokenizer.special_tokens,
            variables=_variables(tokenizer),
            tokenizer=tokenizer,
        )

    @classmethod
    def from_json(cls, text: str) -> ChatTemplate:
        """What `to_json` gave; without a tokenizer, so it renders and does not encode.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = json.loads(text)
            source, tokens = values["chat_template"], values["special_tokens"]
            return cls(source, special_tokens=tokens, variables=values["variables"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"not a chat template that tfllm wrote: {error!r}") from None

    def to_json(self) -> str:
        """All that a client needs to write prompts."""
        values = {
            "chat_template": self.source,
            "special_tokens": list(self.special_tokens),
            "variables": self.variables,
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    def render(
        self, messages: Messages, *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """A conversation as text.

        Args:
            messages: the conversation.
            add_generation_prompt: end with what comes before the assistant's next words.
            variables: others that the template knows, such as `tools` or `enable_thinking`.

        Raises:
            ValueError: the conversation is not well formed, or the template refuses it or does not
                end.
        """
        given = conversation.checked(messages)
        return self.program.run(given, add_generation_prompt, self._checked_variables(variables))

    def prompt(
        self, messages: Messages, *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The same as text for a tokenizer: U+FDD0 in each special token that is not the template's
        own.

        It is what a served model's signature `chat_prompt` takes, and
        `Tokenizer.encode_unbroken` encodes.
        """
        given = self._break(conversation.checked(messages))
        chosen = self._break(self._checked_variables(variables))
        return self.program.run(given, add_generation_prompt, chosen)

    def encode(
        self, messages: Messages, *, add_generation_prompt: bool = False, **variables: Any
    ) -> list[int]:
        """The token ids of a conversation; arguments and errors as `render`."""
        text = self.prompt(messages, add_generation_prompt=add_generation_prompt, **variables)
        return self._tokenizer.encode_unbroken(text)[0]

    def encode_for_training(
        self, messages: Messages, **variables: Any
    ) -> tuple[list[int], list[bool]]:
        """The token ids of a conversation, and which of them are to be learned.

        Learned is what the assistant says, the token that ends its turn included: what the template
        marks with `{% generation %}`, or else all from where the prompt for that turn would have
        ended. A token that begins before the assistant's words is not learned, and nothing is of a
        message whose `weight` is 0.

        Args:
            messages: the conversation.
            variables: others that the template knows.

        Returns:
            ids, and as many booleans.

        Raises:
            ValueError: as `render`; or the template rewrites what the assistant said, so that it is
                not known where it stands.
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

        A model that learns from one that does not never stops.
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
            raise ValueError("this chat template came without a tokenizer: it renders only")
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
    """The template out of a setting; of several named ones the one for all conversations.

    Raises:
        ValueError: there are several, and none of them is that.
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
