"""Base class of the tokenizers that are stored in SentencePiece's own files."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfllm.tokenizers.added_tokens import AddedToken, cut_at
from tfllm.tokenizers.chat.conversation import BREAK
from tfllm.tokenizers.stored_tokenizer import StoredTokenizer
from tfllm.tokenizers.token_bytes import valid_text


class PieceTokenizer(StoredTokenizer):
    """A tokenizer that cuts a text at special tokens, and the stretches between them into pieces.

    A subclass provides `_ids`, `_tokens`, `_added` and `_with_places`, and what `StoredTokenizer`
    requires in addition.
    """

    _ids: Mapping[str, int]
    """Id of every piece and added token."""
    _tokens: Mapping[int, str]
    """Piece or added token of every id."""
    _added: Sequence[AddedToken]
    """The tokens at which a text is cut."""

    def token_id(self, token: str) -> int | None:
        """The id of a piece or an added token; None if there is no such token."""
        return self._ids.get(token)

    def token(self, id_: int) -> str | None:
        """The piece or the added token of an id; None if there is no such id."""
        return self._tokens.get(id_)

    def encode_unbroken(self, text: str) -> tuple[list[int], list[int]]:
        """See `Tokenizer`."""
        ids: list[int] = []
        starts: list[int] = []
        for segment in cut_at(valid_text(text), self._added):
            if segment.id >= 0:
                ids.append(segment.id)
                starts.append(segment.begin)
                continue
            places = [m.start() for m in re.finditer(f"[^{BREAK}]", segment.text, re.DOTALL)]
            for id_, begin in self._with_places(segment.text.replace(BREAK, ""), segment.begin):
                ids.append(id_)
                starts.append(segment.begin + places[min(begin, len(places) - 1)])
        return ids, starts

    @abstractmethod
    def _with_places(self, text: str, begin: int) -> Iterable[tuple[int, int]]:
        """The ids of a stretch, and the index in it of each one's first character.

        Args:
            text: The stretch.
            begin: Its position in the whole text.
        """


def pieces_of(processor: Any, text: str) -> Any:
    """The pieces of a text with their surfaces, whatever the library's version calls them."""
    if hasattr(processor, "encode_as_immutable_proto"):
        return processor.encode_as_immutable_proto(text).pieces
    return processor.encode(text, return_type="proto").pieces
