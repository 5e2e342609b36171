"""Documents to token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tfllm.data.preparing.middle_filling import MiddleFilling
from tfllm.data.preparing.splitting import document_hash
from tfllm.tokenizers.base import Tokenizer


class Document(NamedTuple):
    """A text, and the side of the split that it belongs to."""

    text: str
    hashed: int | None = None
    """what counts as its `document_hash`, of a part of a document; None: its own"""


@dataclass(frozen=True)
class TokenizedBatch:
    """Some documents as ids, each followed by the end token."""

    hashes: np.ndarray
    """uint64 [documents]: `document_hash` of each"""
    num_bytes: np.ndarray
    """int64 [documents]: UTF-8 bytes of each"""
    num_tokens: np.ndarray
    """int64 [documents]: tokens of each, the end tokens included"""
    tokens: np.ndarray
    """[sum of num_tokens]: the ids, in the shards' type"""


@dataclass(frozen=True)
class DocumentJob:
    """What a process has to know to tokenize documents."""

    tokenizer: Tokenizer
    dtype: str
    """of the ids"""
    seed: int
    """of `document_hash`"""
    filling: MiddleFilling | None = None
    """rearranges documents; None: they stay as they are"""
    plain_limit: int = -1
    """documents whose hash is at most this stay as they are: those of validation"""

    def size(self, item: Document) -> int:
        """Characters of a document."""
        return len(item.text)

    def start(self) -> DocumentTokenizer:
        """What makes a `TokenizedBatch` of documents."""
        return DocumentTokenizer(self)


class DocumentTokenizer:
    """Tokenizes batches of documents in this process."""

    def __init__(self, job: DocumentJob) -> None:
        self._job = job
        self._tokenizer = job.tokenizer

    def __call__(self, documents: list[Document]) -> TokenizedBatch:
        """The ids of `documents`. Text that spells a special token is text and ends no document.

        Raises:
            ValueError: the tokenizer gives ids that are not its own, or the end token for text.
        """
        tokenizer, end = self._tokenizer, self._tokenizer.end_token_id
        texts = [document.text for document in documents]
        hashes = [
            document_hash(text, self._job.seed) if hashed is None else hashed
            for text, hashed in documents
        ]
        filled: dict[int, list[list[int]]] = {}
        if self._job.filling is not None:
            for i, (text, hashed) in enumerate(zip(texts, hashes, strict=True)):
                if hashed > self._job.plain_limit:
                    filled[i] = list(self._job.filling.rows(text, hashed, tokenizer))
        plain = iter(
            tokenizer.encode_batch(
                [text for i, text in enumerate(texts) if i not in filled], parse_special=False
            )
        )
        rows = [
            np.concatenate([np.asarray([*ids, end], np.int64) for ids in filled[i]])
            if i in filled
            else _ended(np.asarray(next(plain), np.int64), end)
            for i in range(len(texts))
        ]
        num_ends = len(texts) + sum(len(parts) - 1 for parts in filled.values())
        tokens = np.concatenate(rows)
        check_ids(tokens, tokenizer)
        if np.count_nonzero(tokens == end) != num_ends:
            raise ValueError(
                f"the end token {tokenizer.end_token!r} must stand for no text, but a document "
                'holds it; mark it as "special" among the added_tokens of the tokenizer.json, or '
                "name another as eos_token in tokenizer_config.json"
            )
        return TokenizedBatch(
            np.asarray(hashes, np.uint64),
            np.asarray([len(t.encode()) for t in texts], np.int64),
            np.asarray([len(r) for r in rows], np.int64),
            tokens.astype(self._job.dtype),
        )


def _ended(ids: np.ndarray, end: int) -> np.ndarray:
    """The ids of a document with one end token, behind them.

    The template of a tokenizer.json may have put some around the text already.
    """
    if len(ids) and ids[0] == end:
        ids = ids[1:]
    if len(ids) and ids[-1] == end:
        ids = ids[:-1]
    return np.append(ids, end)


def check_ids(tokens: np.ndarray, tokenizer: Tokenizer) -> None:
    """Refuse ids that are not the tokenizer's own.

    Raises:
        ValueError: some are not.
    """
    if len(tokens) and (int(tokens.max()) >= tokenizer.vocab_size or int(tokens.min()) < 0):
        raise ValueError(
            f"the tokenizer's ids must lie below its vocab_size ({tokenizer.vocab_size}); "
            f"received {int(tokens.max())}; its tokenizer.json is inconsistent: use another"
        )
