"""What every tokenizer can do, whatever its kind."""

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
        vocab_size: number of ids: they are 0 .. vocab_size - 1.
        special_tokens: the tokens that stand for no text, and their ids.
        settings: what tokenizer_config.json says besides the end token, such as the other special
            tokens by name and the chat template.
    """

    vocab_size: int
    special_tokens: dict[str, int]
    settings: dict[str, Any]

    @property
    def target(self) -> Tokenizer:
        """The tokenizer of what is written; itself, unless that is another than of what is read."""

    @property
    def end_token(self) -> str:
        """The token that ends a document."""

    @property
    def end_token_id(self) -> int:
        """Its id."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The ids at each of which a generated text ends, `end_token_id` the first."""

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it; None if there is no such token."""

    def special_id(self, name: str) -> int:
        """The id of a special token.

        Args:
            name: as tokenizer_config.json calls it, such as "cls_token".

        Raises:
            ValueError: the tokenizer has none of that name.
        """

    def encode(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> list[int]:
        """The ids of a text.

        Args:
            text: bytes that are not UTF-8 count as U+FFFD.
            parse_special: false: special tokens in the text are characters like any others.
            add_special: false: without the begin and end tokens that the tokenizer's own
                configuration puts around a text.
        """

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> list[list[int]]:
        """The ids of each text."""

    def encode_with_offsets(
        self, text: str | bytes, *, parse_special: bool = True, add_special: bool = True
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, and which of its characters each stands for.

        Args: as of `encode`.

        Returns:
            the ids, and (begin, end) for each: places of characters (code points) of the text as it
            was given, whatever normalization does to it; (0, 0) for what `add_special` puts there.

        Raises:
            ValueError: tokenizers of the kind do not tell.
        """

    def encode_unbroken(self, text: str) -> tuple[list[int], list[int]]:
        """The ids of a text in which U+FDD0 keeps words from being special tokens.

        As `encode(text, add_special=False)`, but U+FDD0 is taken out once the special tokens of the
        text are found, and of what is left `<|im_` and `end|>` are neighbours again.

        Returns:
            the ids, and the place in `text` of each one's first character.
        """

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ids."""

    def graph(self) -> TokenizerGraph:
        """The same tokenizer out of TensorFlow kernels, that a SavedModel can hold.

        Raises:
            ValueError: the tokenizer does what no such kernels do; the error names it.
        """

    def written_settings(self) -> dict[str, Any]:
        """What tokenizer_config.json is to say besides the end token."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
