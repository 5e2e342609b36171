"""Word-by-word translation: the most likely word for each word, from a table learned from pairs.

The table is that of IBM's model 1 (Brown et al., 1993): each word of a translation comes from one
unknown word of the text, or from none; expectation-maximization finds the probabilities.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_TOKENS = re.compile(r"[^\W\d_]+(?:[’'][^\W\d_]+)*|\d+|[^\w\s]")
_NONE = 0


class WordTable:
    """p(word of the translation | word of the text), and the most likely word for each.

    Args:
        sources: The texts.
        targets: Translation of each text.
        iterations: Number of iterations of expectation-maximization. Defaults to 8.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str], iterations: int = 8) -> None:
        self._source_ids: dict[str, int] = {"": _NONE}
        self._words: dict[str, int] = {}
        rows_s, rows_t = [], []
        for source, target in zip(sources, targets, strict=True):
            rows_s.append([_NONE, *_ids(words(source), self._source_ids)])
            rows_t.append(_ids(words(target), self._words))
        num_words = len(self._words)
        # Every pair of words that occur in the same pair of texts.
        link_s = np.concatenate([np.tile(s, len(t)) for s, t in zip(rows_s, rows_t, strict=True)])
        link_t = np.concatenate([np.repeat(t, len(s)) for s, t in zip(rows_s, rows_t, strict=True)])
        # The index over all texts of the translated word of each link.
        lengths = [len(s) for s, t in zip(rows_s, rows_t, strict=True) for _ in t]
        place = np.repeat(np.arange(len(lengths)), lengths)
        pairs, link = np.unique(link_s.astype(np.int64) * num_words + link_t, return_inverse=True)
        of_source = pairs // num_words
        chances = np.ones(len(pairs))
        for _ in range(iterations):
            weights = chances[link]
            weights /= np.bincount(place, weights)[place]
            counts = np.bincount(link, weights, minlength=len(pairs))
            chances = counts / np.bincount(of_source, counts)[of_source]
        order = np.lexsort((chances, of_source))
        last = np.flatnonzero(np.diff(of_source[order], append=-1))
        best = order[last]
        names = _usual_forms(targets, list(self._words))
        self._best = {
            int(s): names[int(t)]
            for s, t in zip(of_source[best], pairs[best] % num_words, strict=True)
        }

    def translate(self, text: str) -> str:
        """The most likely word for each word, in the order of the text; unknown words are kept."""
        found = []
        for word in _TOKENS.findall(text):
            known = self._source_ids.get(word.lower())
            found.append(word if known is None else self._best[known])
        joined = re.sub(r" ([,.;:?!»”)])", r"\1", " ".join(found))
        joined = re.sub(r"([¿¡«“(]) ", r"\1", joined)
        return joined[:1].upper() + joined[1:]


def words(text: str) -> list[str]:
    """Words, numbers and punctuation, in lower case."""
    return _TOKENS.findall(text.lower())


def _usual_forms(texts: Sequence[str], names: list[str]) -> list[str]:
    """Each word in its most frequent capitalization, not counting the first word of a text."""
    forms: dict[str, Counter[str]] = {}
    for text in texts:
        for word in _TOKENS.findall(text)[1:]:
            forms.setdefault(word.lower(), Counter())[word] += 1
    return [forms[name].most_common(1)[0][0] if name in forms else name for name in names]


def _ids(tokens: list[str], known: dict[str, int]) -> list[int]:
    return [known.setdefault(token, len(known)) for token in tokens]
