"""What every tokenizer can do, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of ids: they are 0 .. vocab_size - 1."""

    @property
    def end_token_id(self) -> int:
        """The id that ends a document."""

    def encode(self, text: str | bytes, *, parse_special: bool = True) -> list[int]:
        """The ids of a text."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ids."""

    def graph(self) -> Any:
        """A tf.Module with `tokenize` and `detokenize`, that a SavedModel can hold."""
