"""Convert documents to token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tfllm.data.preparing.middle_filling import MiddleFilling
from tfllm.data.preparing.splitting import document_hash
from tfllm.tokenizers.base import Tokenizer


class Document(NamedTuple):
    """A document, or a part of one, and the hash that decides its split."""

    text: str
    hashed: int | None = None
    """hash that replaces the `document_hash` for a part of a document; None: that of the text"""


@dataclass(frozen=True)
class TokenizedBatch:
    """Documents as ids, each followed by the end token."""

    hashes: np.ndarray
    """`document_hash` of each document, uint64 [documents]"""
    num_bytes: np.ndarray
    """UTF-8 bytes of each document, int64 [documents]"""
    num_tokens: np.ndarray
    """number of tokens of each document, including end tokens, int64 [documents]"""
    tokens: np.ndarray
    """the ids in the dtype of the shards, [sum of num_tokens]"""


@dataclass(frozen=True)
class DocumentJob:
    """The tokenizing of documents, as a job for worker processes."""

    tokenizer: Tokenizer
    dtype: str
    """dtype of the ids"""
    seed: int
    """seed of `document_hash`"""
    filling: MiddleFilling | None = None
    """rearranges documents for infilling; None: they are left as they are"""
    plain_limit: int = -1
    """documents whose hash is at most this are not rearranged: those of validation"""

    def size(self, item: Document) -> int:
        """Number of characters of a document."""
        return len(item.text)

    def start(self) -> DocumentTokenizer:
        """Create the tokenizer that converts documents to a `TokenizedBatch`."""
        return DocumentTokenizer(self)


class DocumentTokenizer:
    """Tokenizes batches of documents in this process."""

    def __init__(self, job: DocumentJob) -> None:
        self._job = job
        self._tokenizer = job.tokenizer

    def __call__(self, documents: list[Document]) -> TokenizedBatch:
        """Tokenize documents; text that looks like a special token is treated as text.

        Raises:
            ValueError: the tokenizer gives ids outside its vocabulary, or the end token for text.
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
                f"the end token {tokenizer.end_token!r} must not result from text, but a document "
                'contains it; mark it as "special" in the added_tokens of the tokenizer.json, or '
                "name another token as eos_token in tokenizer_config.json"
            )
        return TokenizedBatch(
            np.asarray(hashes, np.uint64),
            np.asarray([len(t.encode()) for t in texts], np.int64),
            np.asarray([len(r) for r in rows], np.int64),
            tokens.astype(self._job.dtype),
        )


def _ended(ids: np.ndarray, end: int) -> np.ndarray:
    """The ids of a document followed by exactly one end token.

    The template of a tokenizer.json may have added end tokens around the text already.
    """
    if len(ids) and ids[0] == end:
        ids = ids[1:]
    if len(ids) and ids[-1] == end:
        ids = ids[:-1]
    return np.append(ids, end)


def check_ids(tokens: np.ndarray, tokenizer: Tokenizer) -> None:
    """Check that ids lie in the vocabulary of the tokenizer.

    Raises:
        ValueError: an id does not.
    """
    if len(tokens) and (int(tokens.max()) >= tokenizer.vocab_size or int(tokens.min()) < 0):
        raise ValueError(
            f"the tokenizer's ids must lie below its vocab_size ({tokenizer.vocab_size}); "
            f"received {int(tokens.max())}; its tokenizer.json is inconsistent: use another one"
        )
