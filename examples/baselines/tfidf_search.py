"""TF-IDF cosine: the similarity of two texts by shared words, with more weight on rare ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer


def words(text: str) -> list[str]:
    """The words of a text, including those in names: `isValidURL` and `is_valid_url` have three."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", text)]


def cosines(
    queries: Sequence[str], documents: Sequence[str], others: Sequence[str] = ()
) -> np.ndarray:
    """The cosine of each query with each document, float `[queries, documents]`.

    Args:
        queries: Texts to search for.
        documents: Texts to search in.
        others: Additional texts that are only used to find out how rare a word is.
    """
    vectorizer = TfidfVectorizer(
        tokenizer=words, token_pattern=None, lowercase=False, sublinear_tf=True
    )
    vectorizer.fit([*others, *documents])
    found = vectorizer.transform(queries) @ vectorizer.transform(documents).T
    return np.asarray(found.todense())
