"""A tokenizer.json that was made from a SentencePiece model: U+2581 for spaces, bytes for rare
characters."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from tokenizers import models

from tfllm.tokenizers.json_tokenizer import JsonTokenizer
from tfllm.tokenizers.leading_space import SPACE, joined
from tfllm.tokenizers.specification.metaspace_specification import (
    leading_space,
    read_metaspace_specification,
)

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.metaspace_graph import MetaspaceGraph


class MetaspaceTokenizer(JsonTokenizer):
    """Text to ids and back as the library `tokenizers` has them.

    Args:
        tokenizer_json: the text of a tokenizer.json.
        end_token: the token that ends a document; default: the one of the usual names that the
            tokenizer has, or its only special token.

    Raises:
        ValueError: the text is not such a tokenizer.json, or end_token is none of its tokens.
    """

    _models: ClassVar[tuple[type, ...]] = (models.BPE,)

    def __init__(self, tokenizer_json: str, *, end_token: str | None = None) -> None:
        super().__init__(tokenizer_json, end_token=end_token)
        self._leading = leading_space(json.loads(tokenizer_json).get("decoder"))

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; broken UTF-8 becomes U+FFFD, ids that are no token's are skipped."""
        special = {} if skip_special else {i: t.encode() for t, i in self.special_tokens.items()}
        known = [i for i in map(int, ids) if 0 <= i < self.vocab_size]
        parts = [special.get(i, self._bytes[i]) for i in known]
        return joined(parts, self._leading).decode("utf-8", "replace")

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """What each id stands for in running text."""
        result = [b""] * self.vocab_size
        special = self.special_tokens.values()
        bytes_ = {f"<0x{b:02X}>": bytes([b]) for b in range(256)}
        falls_back = bool(json.loads(self._json)["model"].get("byte_fallback"))
        for token, id_ in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if id_ in special:
                continue
            if falls_back and token in bytes_:
                result[id_] = bytes_[token]
            else:
                result[id_] = token.replace(SPACE, " ").encode()
        return result

    def _make_graph(self) -> MetaspaceGraph:
        from tfllm.tokenizers.graph.metaspace_graph import MetaspaceGraph

        specification = read_metaspace_specification(self._json, self._added_tokens)
        return MetaspaceGraph(specification, self._bytes, self._leading)
