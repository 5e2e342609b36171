"""What tokenizers out of SentencePiece's own files have in common."""

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
    """A text is cut at special tokens, and each stretch between them into pieces.

    A subclass gives `_ids`, `_tokens`, `_added` and `_with_places`, and what `StoredTokenizer` asks
    for besides.
    """

    _ids: Mapping[str, int]
    """of every piece and added token"""
    _tokens: Mapping[int, str]
    """the same the other way round"""
    _added: Sequence[AddedToken]
    """what a text is cut at"""

    def token_id(self, token: str) -> int | None:
        """The id of a piece or an added token; None if there is no such token."""
        return self._ids.get(token)

    def token(self, id_: int) -> str | None:
        """The piece or the added token of an id; None if there is no such id."""
        return self._tokens.get(id_)

    def encode_unbroken(self, text: str) -> tuple[list[int], list[int]]:
        """As of `StoredTokenizer`."""
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
        """The ids of a stretch, and the place of each among its characters.

        Args:
            text: the stretch.
            begin: its place in the whole text.
        """


def pieces_of(processor: Any, text: str) -> Any:
    """The pieces of a text with their surfaces, by whatever name the library's version has it."""
    if hasattr(processor, "encode_as_immutable_proto"):
        return processor.encode_as_immutable_proto(text).pieces
    return processor.encode(text, return_type="proto").pieces
