"""The n-gram model compared with its definition, computed with dictionaries."""

import collections
import math

import numpy as np
import pytest

from examples.baselines.ngram import NgramModel, _discounts
from tests.rounding import in_double

RANDOM = np.random.default_rng(4)
VOCAB = 7
DOCUMENTS = [RANDOM.choice(VOCAB - 1, n, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04]).tolist()
             for n in (40, 25, 3, 1, 60)]  # fmt: skip
"""the last id never occurs"""


def by_hand(expected):
    """A probability by the definition below, or its logarithm, but for rounding.

    Each of at most five orders has a sum of the weights of its followers, a difference of a count
    and its discount, and what comes from below.
    """
    return in_double(expected, additions=5 * (VOCAB + 3), enlarged=10)


def by_definition(documents, order, context, token):
    """p(token | context), as Chen and Goodman write it."""
    padded = [["<"] * (order - 1) + list(d) for d in documents]
    grams = {
        k: collections.Counter(
            tuple(d[i - k + 1 : i + 1]) for d in padded for i in range(order - 1, len(d))
        )
        for k in range(1, order + 1)
    }

    def counts(k):
        if k == order:
            return grams[k]
        return collections.Counter(gram[1:] for gram in grams[k + 1])

    def p(k, history):
        if k == 0:
            return 1 / VOCAB
        of = counts(k)
        discounts = _discounts(np.array(list(of.values())))
        followers = {gram[-1]: c for gram, c in of.items() if gram[:-1] == history}
        below = p(k - 1, history[1:])
        if not followers:
            return below
        total = sum(followers.values())
        left = sum(discounts[min(c, 3)] for c in followers.values()) / total
        count = followers.get(token, 0)
        return (count - discounts[min(count, 3)]) / total + left * below

    history = (["<"] * (order - 1) + list(context))[len(context) :] if order > 1 else []
    return p(order, tuple(history))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_is_modified_kneser_ney(order):
    model = NgramModel(DOCUMENTS, VOCAB, order)
    for context in ([], [0], [5, 5, 5], [0, 1, 0], [6, 0], DOCUMENTS[0][:10]):
        given = model.distribution(context)
        expected = [by_definition(DOCUMENTS, order, context, token) for token in range(VOCAB)]
        assert given == by_hand(expected)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_every_distribution_sums_to_1_and_is_positive(order):
    model = NgramModel(DOCUMENTS, VOCAB, order)
    for _ in range(50):
        context = RANDOM.integers(0, VOCAB, RANDOM.integers(0, 8)).tolist()
        chances = model.distribution(context)
        assert chances.sum() == in_double(1, VOCAB)
        assert chances.min() > 0


@pytest.mark.parametrize("order", [1, 3, 5])
def test_losses_are_those_of_the_distributions(order):
    model = NgramModel(DOCUMENTS, VOCAB, order)
    document = [0, 1, 6, 2, *DOCUMENTS[0][:20], 6, 6]
    expected = [-math.log(model.distribution(document[:i])[t]) for i, t in enumerate(document)]
    assert model.losses(document) == by_hand(expected)
    assert len(model.losses([])) == 0


def test_it_completes_what_it_has_seen():
    text = [1, 2, 3, 4, 5, 0] * 10
    model = NgramModel([text], VOCAB, 4)
    assert model.complete([1, 2], lambda token: token == 0) == [3, 4, 5, 0]
    assert model.complete([1, 2], lambda token: False, most=3) == [3, 4, 5]


def test_a_longer_context_predicts_better():
    text = ([1, 2, 3] * 3 + [2, 1, 4]) * 20
    losses = [
        NgramModel([text[:180]], VOCAB, order).losses(text[180:]).mean() for order in (1, 2, 4)
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"documents": [[0]], "order": 0}, "order must be at least 1"),
        ({"documents": [[]]}, "at least one token"),
        ({"documents": [[0, 8]]}, "0 to 6"),
    ],
)
def test_bad_input_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        NgramModel(vocab_size=VOCAB, **given)
