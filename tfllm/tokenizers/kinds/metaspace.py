"""A tokenizer.json converted from a SentencePiece model: U+2581 stands for spaces, and rare
characters are written as bytes."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tokenizers import models

from tfllm.tokenizers.kinds.json_tokenizer import JsonTokenizer
from tfllm.tokenizers.leading_space import SPACE, joined
from tfllm.tokenizers.specification.metaspace_specification import (
    leading_space,
    read_metaspace_specification,
)
from tfllm.tokenizers.stored_tokenizer import StoredTokenizer

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.metaspace_graph import MetaspaceGraph


class MetaspaceTokenizer(JsonTokenizer):
    """BPE tokenizer that was converted from SentencePiece, with the same ids as in `tokenizers`.

    For arguments and errors see `JsonTokenizer`.

    Examples:

    >>> from tokenizers import SentencePieceBPETokenizer
    >>> from tfllm.tokenizers import MetaspaceTokenizer
    >>> library = SentencePieceBPETokenizer()
    >>> library.train_from_iterator(["to be or not to be"], special_tokens=["<unk>", "</s>"])
    >>> tokenizer = MetaspaceTokenizer(library.to_str())
    >>> tokenizer.decode(tokenizer.encode("to be"))
    'to be'
    """

    _models: ClassVar[tuple[type, ...]] = (models.BPE,)

    def __init__(self, tokenizer_json: str, *, end_token: str | None = None) -> None:
        super().__init__(tokenizer_json, end_token=end_token)
        self._leading = leading_space(json.loads(tokenizer_json).get("decoder"))

    decode = StoredTokenizer.decode

    def _text(self, parts: Sequence[bytes]) -> str:
        return joined(parts, self._leading).decode("utf-8", "replace")

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
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
