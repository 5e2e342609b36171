"""The interface that every kind of tokenizer has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.tokenizer_graph import TokenizerGraph


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes:
        vocab_size: Number of ids, which are 0 .. vocab_size - 1.
        special_tokens: Ids of the tokens that stand for no text, by token.
        settings: Contents of tokenizer_config.json without the end token, such as the names of the
            other special tokens and the chat template.

    Examples:

    >>> from tfllm.tokenizers import BytePairTokenizer, Tokenizer
    >>> tokenizer = BytePairTokenizer.train(["to be or not to be"], vocab_size=259)
    >>> isinstance(tokenizer, Tokenizer)
    True
    >>> tokenizer.decode(tokenizer.encode("not to be"))
    'not to be'
    """

    vocab_size: int
    special_tokens: dict[str, int]
    settings: dict[str, Any]

    @property
    def target(self) -> Tokenizer:
        """The tokenizer of generated text; this one, unless inputs use a different one."""

    @property
    def end_token(self) -> str:
        """The token that ends a document."""

    @property
    def end_token_id(self) -> int:
        """The id of `end_token`."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The ids at which generation stops; `end_token_id` is the first."""

    def token_id(self, token: str) -> int | None:
        """The id of a token as written in the vocabulary; None if there is no such token."""

    def special_id(self, name: str) -> int:
        """The id of a special token.

        Args:
                name: Name in tokenizer_config.json, such as "cls_token".

            Raises:
                ValueError: If the tokenizer has no special token of that name.
        """

    def encode(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> list[int]:
        """Convert a text to ids.

        Args:
            text: The text. Bytes that are not UTF-8 count as U+FFFD.
            parse_special: Whether special tokens in the text are recognized. If False, they are
                encoded like any other characters. Defaults to True.
            add_special: Whether to add the begin and end tokens that the tokenizer's own
                configuration puts around a text. Defaults to True.
        """

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> list[list[int]]:
        """Convert each text to ids; see `encode`."""

    def encode_with_offsets(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Convert a text to ids, and find the characters that each id stands for.

        Args: see `encode`.

        Returns:
            The ids, and (begin, end) for each: positions of characters (code points) in the text as
            given, before any normalization; (0, 0) for tokens that `add_special` adds.

        Raises:
            ValueError: If this kind of tokenizer does not support offsets.
        """

    def encode_unbroken(self, text: str) -> tuple[list[int], list[int]]:
        """Convert a text to ids where U+FDD0 keeps words from being read as special tokens.

        Like `encode(text, add_special=False)`, but U+FDD0 is removed after the special tokens of
        the text are found, so that `<|im_` and `end|>` around one are then joined again.

        Returns:
            The ids, and the position in `text` of each one's first character.
        """

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Convert ids to text."""

    def graph(self) -> TokenizerGraph:
        """The same tokenizer as TensorFlow ops, which a SavedModel can hold.

        Raises:
            ValueError: If these ops cannot do what the tokenizer does; the error names it.
        """

    def written_settings(self) -> dict[str, Any]:
        """The settings to write to tokenizer_config.json, without the end token."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
