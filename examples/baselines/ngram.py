"""An n-gram language model on token ids: interpolated, modified Kneser-Ney smoothing.

Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998). The
n-grams are stored in sorted arrays: an n-gram is the index of its first n - 1 tokens in the array
of the shorter ones, and its last token. So all counting and looking up is done by NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np


class NgramModel:
    """p(token | the previous order - 1 tokens), estimated from counts.

    The counts of the longest n-grams are their occurrences, and those of shorter ones the number of
    tokens that they occur after; each order subtracts a discount (three, by count: 1, 2, more) from
    its counts, and gives it to the order below; the lowest is uniform. Every distribution sums to 1
    over the vocabulary.

    Args:
        documents: Token ids of each document, 0 to vocab_size - 1.
        vocab_size: Number of ids.
        order: Number of tokens of the longest n-gram, at least 1. Defaults to 5.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocab_size: int, order: int = 5) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1; received {order}")
        self.order, self.vocab_size = order, vocab_size
        self._base = vocab_size + 1  # one more, for the positions before a document
        stream = self._stream(documents)
        if not (stream < vocab_size).any():
            raise ValueError("there must be at least one token to count; received none")
        self._keys: list[np.ndarray] = []
        places = np.zeros(len(stream), np.int64)  # of the (k-1)-gram that ends here
        lowers, counts = [], []
        for _ in range(order):
            before = np.concatenate([places[:1] * 0, places[:-1]])
            keys, first, places, count = np.unique(
                before * self._base + stream,
                return_index=True, return_inverse=True, return_counts=True,
            )  # fmt: skip
            lowers.append(first)
            self._keys.append(keys)
            counts.append(np.where(keys % self._base < vocab_size, count, 0))
        # A shorter n-gram counts the different tokens before it: the longer n-grams that end with
        # it.
        for k in range(order - 1):
            longer = lowers[k + 1][counts[k + 1] > 0]
            shorter = self._look_up(stream)[k][longer]
            counts[k] = np.bincount(shorter, minlength=len(self._keys[k]))
        self._set_weights(counts)

    def _set_weights(self, counts: list[np.ndarray]) -> None:
        """Set each n-gram's discounted share, and the rest of each context for the order below."""
        self._shares, self._left = [], []
        for k, count in enumerate(counts):
            contexts = self._keys[k] // self._base
            num = len(self._keys[k - 1]) if k else 1
            discount = _discounts(count)[np.minimum(count, 3)]
            totals = np.bincount(contexts, weights=count, minlength=num)
            taken = np.bincount(contexts, weights=discount, minlength=num)
            seen = totals > 0
            sizes = np.maximum(totals, 1)[contexts]
            self._shares.append(np.where(count > 0, (count - discount) / sizes, 0.0))
            self._left.append(np.where(seen, taken / np.where(seen, totals, 1), 1.0))

    def losses(self, document: Sequence[int]) -> np.ndarray:
        """-log p of each token, given the previous ones; float64 `[T]`."""
        stream = self._stream([document])
        places = self._look_up(stream)
        chances = np.full(len(stream), 1 / self.vocab_size)
        before = np.zeros(len(stream), np.int64)  # the empty context
        for k in range(self.order):
            chances *= np.where(before >= 0, self._left[k][before], 1.0)
            chances += np.where(places[k] >= 0, self._shares[k][places[k]], 0.0)
            before = np.concatenate([[-1], places[k][:-1]])
        return -np.log(chances[self.order - 1 :])

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """p of each next token after the tokens of a document so far; float64 `[vocab_size]`."""
        # With a mark before it, so that there is a last position even of an empty text.
        stream = np.concatenate([[self.vocab_size], self._stream([context])])
        places = [found[-1] for found in self._look_up(stream)]
        chances = np.full(self.vocab_size, 1 / self.vocab_size)
        for k in range(self.order):
            here = places[k - 1] if k else 0
            if here < 0:
                break
            begin, end = np.searchsorted(
                self._keys[k], [here * self._base, here * self._base + self.vocab_size]
            )
            chances *= self._left[k][here]
            chances[self._keys[k][begin:end] % self._base] += self._shares[k][begin:end]
        return chances

    def complete(
        self, context: Sequence[int], is_end: Callable[[int], bool], most: int = 64
    ) -> list[int]:
        """Append the most likely token repeatedly, up to and including the first end token."""
        tokens = list(context)
        for _ in range(most):
            tokens.append(int(self.distribution(tokens[-self.order :]).argmax()))
            if is_end(tokens[-1]):
                break
        return tokens[len(context) :]

    def _stream(self, documents: Iterable[Sequence[int]]) -> np.ndarray:
        """All documents, with order - 1 marks before each."""
        marks = np.full(self.order - 1, self.vocab_size)
        parts = [part for d in documents for part in (marks, np.asarray(d, np.int64))]
        stream = np.concatenate([np.zeros(0, np.int64), *parts])
        if len(stream) and (stream.min() < 0 or stream.max() > self.vocab_size):
            raise ValueError(f"token ids must be 0 to {self.vocab_size - 1}")
        return stream

    def _look_up(self, stream: np.ndarray) -> list[np.ndarray]:
        """For each order, the index of the n-gram that ends at each position; -1 if unknown."""
        found, places = [], np.zeros(len(stream), np.int64)
        for keys in self._keys:
            before = np.concatenate([[0 if not found else -1], places[:-1]])
            wanted = before * self._base + stream
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            places = np.where((before >= 0) & (keys[at] == wanted), at, -1)
            found.append(places)
        return found


def _discounts(counts: np.ndarray) -> np.ndarray:
    """The discount for a count of 0, 1, 2, and more (Chen and Goodman's estimate)."""
    one, two, three, four = (float(max((counts == c).sum(), 1)) for c in (1, 2, 3, 4))
    share = one / (one + 2 * two)
    estimates = [
        1 - 2 * share * two / one,
        2 - 3 * share * three / two,
        3 - 4 * share * four / three,
    ]
    # With little text the estimates may be out of range.
    return np.asarray([0.0, *(np.clip(d, 0.1 * c, 0.95 * c) for c, d in enumerate(estimates, 1))])
