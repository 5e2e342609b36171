"""Hidden tokens: their number and replacements, which depend only on seed, step and row."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_rounded
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.models.token_masking import TokenMasking, mask_tokens
from tfllm.optimization.adamw import AdamW

V, MASK, SPECIAL = 211, 4, (0, 1, 2, 4, 210)
MASKING = TokenMasking(MASK, SPECIAL, seed=7)


def largest_deviation(share, number):
    """Of the share of independent tokens that something happens to: 98 of 100 seeds are within, and
    those of this file are fixed."""
    return 2.4 * np.sqrt(share * (1 - share) / number)


def rows(rng, batch=64, time=128):
    return rng.integers(5, V - 1, (batch, time)).astype(np.int32)


def hidden(token_ids, candidates=None, step=3, masking=MASKING):
    candidates = np.ones(token_ids.shape, bool) if candidates is None else candidates
    given = mask_tokens(tf.constant(token_ids), tf.constant(candidates), step, masking, V)
    return given.token_ids.numpy(), given.hidden.numpy()


def test_the_shares_are_those_of_bert(rng):
    token_ids = rows(rng, 512)
    given, chosen = hidden(token_ids)
    assert set(chosen.sum(1)) == {round(0.15 * 128)}
    places = chosen.mean(0)
    assert places.min() > 0.07 and places.max() < 0.23  # anywhere in a row
    now, before = given[chosen], token_ids[chosen]
    assert (now == MASK).mean() == pytest.approx(0.8, abs=largest_deviation(0.8, now.size))
    changed = (now != MASK) & (now != before)
    share = 0.1 * (1 - 1 / V)  # some are what they were
    assert changed.mean() == pytest.approx(share, abs=largest_deviation(share, now.size))
    assert not np.isin(now[changed], SPECIAL).any()
    values = np.bincount(now[changed], minlength=V)
    assert (values > 0).sum() > 0.97 * (V - len(SPECIAL)) - 10
    np.testing.assert_array_equal(given[~chosen], token_ids[~chosen])


def test_special_tokens_and_padding_are_never_hidden(rng):
    token_ids = rng.choice([*SPECIAL, 9, 10], (50, 40)).astype(np.int32)
    lengths = rng.integers(0, 41, 50)
    candidates = np.arange(40) < lengths[:, np.newaxis]
    _, chosen = hidden(token_ids, candidates)
    allowed = candidates & ~np.isin(token_ids, SPECIAL)
    assert not (chosen & ~allowed).any()
    # At least one of each row that has any.
    np.testing.assert_array_equal(chosen.any(1), allowed.any(1))


def test_a_row_hides_the_same_wherever_it_stands(rng):
    token_ids = rows(rng, 6, 30)
    given, chosen = hidden(token_ids)
    order = [4, 0, 5, 2]
    padded = np.pad(token_ids[order], ((0, 0), (0, 9)))
    candidates = np.arange(39) < np.full((4, 1), 30)
    beside, chosen_beside = hidden(padded, candidates)
    np.testing.assert_array_equal(beside[:, :30], given[order])
    np.testing.assert_array_equal(chosen_beside[:, :30], chosen[order])


def test_another_step_seed_or_row_hides_others(rng):
    token_ids = rows(rng)
    _, first = hidden(token_ids)
    other_seed = TokenMasking(MASK, SPECIAL, seed=8)
    changed = token_ids.copy()
    changed[:, 50] = np.where(changed[:, 50] == 9, 10, 9)  # one token of each row
    others = (hidden(token_ids, step=4), hidden(token_ids, masking=other_seed), hidden(changed))
    for _, other in others:
        both = (first & other).sum() / first.sum()
        share = round(0.15 * 128) / 128
        assert both == pytest.approx(share, abs=largest_deviation(share, first.sum()))
    repeated = np.repeat(token_ids[:1], 2, 0)
    np.testing.assert_array_equal(*hidden(repeated)[1])


def test_shares_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]; received 0"):
        TokenMasking(4, share=0)
    with pytest.raises(ValueError, match=r"at most 1 together; received 0.8 and 0.3"):
        TokenMasking(4, random_share=0.3)


def fitted(accumulation, steps, start=None):
    config = EncoderConfig(V, 16, 1, 2, max_sequence_length=24, dropout=0.0)
    model = MaskedLanguageModel(config, masking=MASKING, seed=1)
    model.gradient_accumulation = accumulation
    model.compile(AdamW(0.01, 0.0))
    rng = np.random.default_rng(5)
    token_ids = rows(rng, 8, 24) % 9 + 5
    data = (token_ids, np.zeros_like(token_ids), np.ones(token_ids.shape, np.float32))
    dataset = tf.data.Dataset.from_tensors(data).repeat(steps)
    if start is not None:
        model.optimizer.build(model.trainable_variables)
        for mine, theirs in zip(
            (*model.weights, *model.optimizer.variables),
            (*start.weights, *start.optimizer.variables),
            strict=True,
        ):
            mine.assign(theirs)
    history = model.fit(dataset, shuffle=False, verbose=0)
    return model, history.history["loss"][0], data


def test_pretraining_hides_anew_at_each_step_and_goes_on_as_if_it_had_not_stopped():
    whole, loss, data = fitted(1, 6)
    first, *_ = fitted(4, 4)
    second, *_ = fitted(2, 2, start=first)
    for one, other in zip(whole.weights, second.weights, strict=True):
        assert_rounded(one, other, 2000)
    before, after = (whole.evaluate(*data[:1], data[1], verbose=0) for _ in range(2))
    assert before == after  # an evaluation hides the same tokens each time
    assert loss < 5.5
