"""Rearrange documents so that a language model learns to fill in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tfllm.data.reading.sources import pieces
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.fill_in_the_middle import MiddleTokens


@dataclass(frozen=True)
class MiddleFilling:
    """Fill-in-the-middle training data (Bavarian et al., 2022).

    A document is cut into pieces of at most `most_chars`, at line ends if possible, so that a
    training row can hold all three parts of a piece. A fraction `rate` of the pieces is rearranged:
    each is divided at two uniformly random positions, and becomes a document of its own. The other
    pieces are left as they are, and neighbouring ones are joined again.
    """

    tokens: MiddleTokens
    rate: float
    """fraction of the pieces that are rearranged"""
    suffix_first: float
    """fraction of these that begin with the suffix (SPM); the others begin with the prefix (PSM)"""
    most_chars: int
    """maximum number of characters of a piece"""

    def rows(self, text: str, hashed: int, tokenizer: Tokenizer) -> Iterator[list[int]]:
        """The ids of the parts of a document, without end tokens.

        Args:
            text: the document.
            hashed: its `document_hash`, which seeds all random choices, so that they do not depend
                on the process that makes them.
            tokenizer: tokenizer of the text; it tokenizes the parts of a piece separately, as in
                infilling.
        """
        random = np.random.default_rng(hashed)
        parts: list[str] = []  # parts of all rows, to be tokenized in one call
        forms: list[Callable[..., list[int]]] = []
        plain = ""

        def write(form: Callable[..., list[int]], *texts: str) -> None:
            forms.append(form)
            parts.extend((*texts, "", "")[:3])

        for stretch in pieces([text], self.most_chars):
            if random.random() >= self.rate:
                plain += stretch
                continue
            if plain:
                write(_as_it_is, plain)
                plain = ""
            first, second = sorted(random.integers(0, len(stretch) + 1, 2).tolist())
            suffix_first = random.random() < self.suffix_first
            form = self.tokens.written_suffix_first if suffix_first else self.tokens.written
            write(form, stretch[:first], stretch[first:second], stretch[second:])
        if plain:
            write(_as_it_is, plain)
        ids = tokenizer.encode_batch(parts, parse_special=False, add_special=False)
        for i, form in enumerate(forms):
            yield form(*ids[3 * i : 3 * i + 3])


def _as_it_is(ids: list[int], *_: list[int]) -> list[int]:
    return ids
