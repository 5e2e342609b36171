"""Sampling compared with a slow float64 sampler that works token by token."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.rounding import rounding
from tfllm.config import GenerationConfig
from tfllm.generation import sampling
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.sampling import SamplingOptions, next_tokens, uniform_numbers

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
SAMPLING = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 0, 1, 3, 7, 12, 50]),
        "top_p": st.sampled_from([1.0, 1.0, 0.05, 0.5, 0.83]),
        "min_p": st.sampled_from([0.0, 0.0, 0.1, 0.6]),
        "repetition_penalty": st.sampled_from([1.0, 1.7, 0.6]),
    }
)


def probabilities(
    logits, seen=(), *, temperature, top_k, top_p, min_p, repetition_penalty
) -> tuple[np.ndarray, float]:
    """What each token may be drawn with, and how near a cut-off was to going the other way."""
    scores = np.array(logits, np.float64)
    for i in seen:
        scores[i] *= repetition_penalty if scores[i] < 0 else 1 / repetition_penalty
    scores /= temperature
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    margin = np.inf
    if top_k:
        order = order[:top_k]

    def shares(ids):
        weights = np.exp(scores[ids] - scores[ids].max())
        return weights / weights.sum()

    if top_p < 1:
        kept, before = [], 0.0
        for i, p in zip(order, shares(order), strict=True):
            margin = min(margin, abs(before - top_p))
            if before < top_p or not kept:
                kept.append(i)
            before += p
        order = kept
    if min_p > 0:
        p = shares(order)
        margin = min(margin, np.abs(p - min_p * p[0]).min())
        order = [i for i, x in zip(order, p, strict=True) if x >= min_p * p[0]]
    result = np.zeros(len(scores))
    result[order] = shares(order)
    return result, margin


def options_of(rows) -> SamplingOptions:
    """Dictionaries of options, one a row."""
    return SamplingOptions(
        *(
            tf.constant(
                [{"seed": 0, "prompt_lookup_tokens": 0, **row}[name] for row in rows],
                OPTION_DTYPES[name],
            )
            for name in SamplingOptions._fields
        )
    )


def drawn(logits, given, num, seen=(), seeds=None, step=0) -> np.ndarray:
    """`num` draws from the same logits."""
    logits = tf.tile(tf.constant([logits], tf.float32), [num, 1])
    mask = np.zeros(logits.shape, bool)
    mask[:, list(seen)] = True
    options = options_of([given])._replace(seed=tf.range(num) if seeds is None else seeds)
    options = SamplingOptions(*(tf.broadcast_to(o, [num]) for o in options))
    return next_tokens(logits, options, tf.constant(step), tf.constant(mask)).numpy()


def spread_evenly(patch: pytest.MonkeyPatch) -> None:
    """Numbers spread evenly over [0, 1) instead of random ones: frequencies are exact."""

    def numbers(seed, step):
        num = tf.size(seed)
        return (tf.cast(tf.range(num), tf.float32) + 0.5) / tf.cast(num, tf.float32)

    patch.setattr(sampling, "uniform_numbers", numbers)


@pytest.fixture
def even(monkeypatch):
    spread_evenly(monkeypatch)


@pytest.mark.parametrize("few", [4, 256])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(SAMPLING, st.integers(0, 10**6))
def test_each_option_keeps_what_it_should_with_renormalised_probabilities(few, given, seed):
    rng = np.random.default_rng(seed)
    logits, seen = rng.normal(0, 2, 12), rng.choice(12, 4, replace=False)
    expected, margin = probabilities(logits, seen, **given)
    assume(margin > 1e-4)
    with pytest.MonkeyPatch.context() as patch:
        spread_evenly(patch)
        patch.setattr(sampling, "_FEW", few)
        tokens = drawn(logits, given, 2000, seen)
    found = np.bincount(tokens, minlength=12) / 2000
    # The 2000 numbers are spread evenly: a token has as many as lie between its ends, to one, and
    # the ends are sums of 12 numbers.
    assert np.abs(found - expected).max() <= 1 / 2000 + rounding(12)
    assert not (found > 0)[expected == 0].any()


def test_top_p_counts_all_that_top_k_leaves_where_that_is_more_than_the_first_tier(even):
    given = {**NEUTRAL, "top_k": 512, "top_p": 0.4}
    logits = np.linspace(0.1, 0, 1000)
    expected, _ = probabilities(logits, **given)
    found = set(drawn(logits, given, 4000))
    assert found == set(np.flatnonzero(expected))
    assert len(found) > 200


def test_top_p_of_1_leaves_the_whole_tail(even):
    logits = np.random.default_rng(0).normal(0, 0.01, 1500)
    assert len(set(drawn(logits, {**NEUTRAL, "top_k": 1400}, 6000))) == 1400
    assert len(set(drawn(logits, {**NEUTRAL, "min_p": 1e-6}, 6000))) == 1500


@pytest.mark.parametrize(
    "given",
    [
        NEUTRAL,
        {**NEUTRAL, "temperature": 0.7, "top_k": 6},
        {**NEUTRAL, "temperature": 1.5, "top_p": 0.8, "min_p": 0.05},
    ],
)
def test_seeds_draw_from_the_distribution(given):
    logits, num = np.random.default_rng(1).normal(0, 1, 10), 20000
    expected, _ = probabilities(logits, **given)
    for step in (0, 1, 77):
        counts = np.bincount(drawn(logits, given, num, step=step), minlength=10)
        support = expected > 0
        assert counts[~support].sum() == 0
        chi_square = ((counts - num * expected)[support] ** 2 / (num * expected[support])).sum()
        assert chi_square < 30  # of at most 9 degrees of freedom: once in 2,000 tries


def test_both_tiers_draw_the_same():
    rng = np.random.default_rng(2)
    logits = tf.constant(rng.normal(0, 1.5, [300, 40]), tf.float32)
    rows = [
        {
            "temperature": 0.8,
            "top_k": int(k),
            "top_p": float(p),
            "min_p": float(m),
            "repetition_penalty": 1.0,
            "seed": i,
        }
        for i, (k, p, m) in enumerate(
            zip(
                rng.choice([0, 2, 8, 30, 40, 99], 300),
                rng.choice([1, 0.3, 0.9], 300),
                rng.choice([0, 0.2], 300),
                strict=True,
            )
        )
    ]
    results = []
    for few in (8, 256):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "_FEW", few)
            seen = tf.zeros_like(logits, tf.bool)
            results.append(next_tokens(logits, options_of(rows), tf.constant(3), seen).numpy())
    np.testing.assert_array_equal(*results)


ANY_ROW = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0]),
        "top_k": st.sampled_from([0, 2, 20]),
        "top_p": st.sampled_from([1.0, 0.5, 0.95]),
        "min_p": st.sampled_from([0.0, 0.3]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.sampled_from([0, 1, 2**31 - 1]),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(ANY_ROW, min_size=2, max_size=5), st.integers(0, 10**6))
def test_a_row_draws_the_same_alone_and_beside_any_others(rows, seed):
    rng = np.random.default_rng(seed)
    # Ties too: even chances at which rounding could decide.
    logits = tf.constant(rng.choice([0.0, 0.0, 1.0, 2.0, 3.5], [len(rows), 24]), tf.float32)
    seen = tf.constant(rng.random([len(rows), 24]) < 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_FEW", 4)
        together = next_tokens(logits, options_of(rows), tf.constant(5), seen).numpy()
        alone = [
            next_tokens(logits[i : i + 1], options_of([row]), tf.constant(5), seen[i : i + 1])
            for i, row in enumerate(rows)
        ]
    assert together.tolist() == [int(token[0]) for token in alone]


def test_temperature_0_takes_the_likeliest_after_the_penalty_and_nothing_else():
    logits = [1.0, 3.0, 2.9, -1.0]
    greedy = {**NEUTRAL, "temperature": 0.0, "top_k": 3, "top_p": 0.2}
    assert set(drawn(logits, greedy, 50)) == {1}
    assert set(drawn(logits, {**greedy, "repetition_penalty": 1.5}, 5, seen=[1])) == {2}
    # Below 0 a penalty multiplies: what was said gets less likely there too.
    negative = [-1.0, -1.2]
    assert set(drawn(negative, {**greedy, "repetition_penalty": 1.5}, 5, seen=[0])) == {1}
    assert set(drawn(negative, {**greedy, "repetition_penalty": 1.5}, 5)) == {0}


@pytest.mark.parametrize(
    "extreme",
    [
        {"temperature": 1e-38},
        {"temperature": 1e-38, "top_k": 2},
        {"temperature": 1e-38, "top_p": 0.5},
        {"temperature": 0.9, "repetition_penalty": 1e-30},
        {"temperature": 1e-20, "repetition_penalty": 1e-30, "top_p": 1e-30},
        {"temperature": 1.0, "top_p": 1e-30},
        {"temperature": 1.0, "min_p": 0.999},
    ],
)
def test_extreme_options_take_the_likeliest_and_never_break(extreme):
    logits = [1.0, -30.0, 50.0, 20.0, 3.0]
    assert set(drawn(logits, {**NEUTRAL, **extreme}, 20, seen=[1, 2])) == {2}


def test_a_huge_penalty_still_gives_a_token():
    given = {**NEUTRAL, "repetition_penalty": 3e38}
    assert set(drawn([-1.0, -2.0, -3.0], given, 20, seen=[0, 1])) == {2}
    assert set(drawn([1e-3, -2.0, -3.0], given, 20, seen=[0, 1, 2])) == {0}


def test_a_huge_temperature_makes_all_alike():
    given = {**NEUTRAL, "temperature": 3e38}
    counts = np.bincount(drawn([1.0, 50.0, -50.0, 7.0], given, 4000), minlength=4)
    assert (abs(counts - 1000) < 150).all()


@pytest.mark.parametrize("of", ["seeds", "steps"])
def test_random_numbers_are_uniform_and_independent(of):
    if of == "seeds":
        x, y = (uniform_numbers(tf.range(20000), tf.constant(step)).numpy() for step in (4, 5))
    else:
        x, y = (
            np.concatenate(
                [uniform_numbers(tf.constant([seed]), tf.constant(i)) for i in range(600)]
            )
            for seed in (8, 9)
        )
    assert x.dtype == np.float32 and (x >= 0).all() and (x < 1).all()
    n = len(x)
    assert len(np.unique(x)) > 0.99 * n
    expected = n / 20
    for values in (x, y):
        counts = np.histogram(values, 20, (0, 1))[0]
        assert ((counts - expected) ** 2 / expected).sum() < 50  # of 19 degrees of freedom
    # Neighbours, in both directions, have nothing to do with one another.
    for a, b in ((x[1:], x[:-1]), (x, y), (x[2:], y[:-2])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(n)
    pairs = np.histogram2d(x[1:], x[:-1], 5, ((0, 1), (0, 1)))[0]
    assert ((pairs - (n - 1) / 25) ** 2 / ((n - 1) / 25)).sum() < 60  # of 24 degrees of freedom


def test_one_configuration_gives_every_row_its_options():
    config = GenerationConfig(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=7)
    options = SamplingOptions.of(config, 2)
    for name, tensor in options._asdict().items():
        dtype = OPTION_DTYPES[name]
        assert tensor.dtype == dtype
        given = np.array([getattr(config, name)] * 2, dtype.as_numpy_dtype)
        np.testing.assert_array_equal(tensor.numpy(), given)
