"""Documents rearranged so that a language model learns to fill in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tfllm.data.reading.sources import pieces
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.fill_in_the_middle import MiddleTokens


@dataclass(frozen=True)
class MiddleFilling:
    """How (Bavarian et al., 2022). A document is cut into stretches of at most `most_chars`, at
    line ends where there are some: a row of training shall hold all three parts. A share `rate` of
    the stretches is rearranged, each at two places chosen evenly among its characters, and becomes
    a document of its own; the others, joined where they are neighbours, stay as they are."""

    tokens: MiddleTokens
    rate: float
    """share of the stretches that are rearranged"""
    suffix_first: float
    """share of these that are written suffix first (SPM), the others prefix first (PSM)"""
    most_chars: int
    """characters of a stretch at most"""

    def rows(self, text: str, hashed: int, tokenizer: Tokenizer) -> Iterator[list[int]]:
        """The ids of a document's parts, without end tokens.

        Args:
            text: the document.
            hashed: its `document_hash`, from which all chance comes: the same whichever process
                does it.
            tokenizer: the parts of a stretch are tokenized one by one, as they will be when asked.
        """
        random = np.random.default_rng(hashed)
        parts: list[str] = []  # of all rows, to be tokenized at once
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
