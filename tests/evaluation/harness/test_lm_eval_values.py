"""The harnesses compared with lm-evaluation-harness 0.4.13 (recorded by `record_lm_eval.py`)."""

import functools
import json

import numpy as np
import pytest

from tests.evaluation.harness.record_lm_eval import (
    CHOICES,
    FOLDERS,
    LONG,
    MAX_GEN_TOKS,
    PAIRS,
    PATTERN,
    PROMPTS,
    TEXTS,
    UNTIL,
    VALUES,
)
from tests.rounding import about, assert_within, in_double, weight_rounding
from tfllm.evaluation.harness import exact_match, multiple_choice, rolling_perplexity
from tfllm.evaluation.harness.log_likelihood import log_likelihoods, rolling_log_likelihoods
from tfllm.evaluation.harness.prompts import continuations
from tfllm.tasks import TextGeneration

RECORDED = json.loads(VALUES.read_text(encoding="utf-8"))

SECOND_IS_SLOW = pytest.mark.parametrize(
    "name",
    ["without_begin_token", pytest.param("with_begin_token", marks=pytest.mark.slow)],
    indirect=True,
)


@pytest.fixture(scope="module", params=["with_begin_token", "without_begin_token"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def task(name):
    return TextGeneration.load(FOLDERS / name)


@pytest.fixture(scope="module")
def recorded(name):
    return RECORDED[name]


@pytest.fixture(scope="module")
def bound(task):
    """pairs -> how far rounding may move the log-probability of each"""

    @functools.cache
    def bounds():
        def run():
            return np.array([[one.log_prob] for one in log_likelihoods(task, PAIRS, batch_size=4)])

        return dict(zip(map(tuple, PAIRS), weight_rounding(task.model, run)[:, 0], strict=True))

    return lambda pairs: np.array([bounds()[tuple(pair)] for pair in pairs])


def values_of(metrics):
    found = {m.name: (m.value, m.standard_error) for m in metrics}
    return {n: pair for n, pair in found.items()}


def test_log_likelihoods_of_continuations(task, recorded, bound):
    found = log_likelihoods(task, PAIRS, batch_size=4)
    given = [one.log_prob for one in found]
    assert_within(given, recorded["log_likelihoods"], bound(PAIRS))
    assert [one.num_truncated > 0 for one in found] == [context == LONG for context, _ in PAIRS]


def test_a_context_and_its_space_are_the_same_with_the_space_on_either_side(task, bound):
    first, second = log_likelihoods(task, PAIRS[:2])
    assert first.num_tokens == second.num_tokens
    assert_within(first.log_prob, second.log_prob, bound(PAIRS[:1])[0])


def test_rolling_log_likelihoods_of_documents(task, recorded):
    def run():
        found = rolling_log_likelihoods(task, TEXTS, batch_size=3)
        return np.array([[one.log_prob] for one in found])

    assert_within(run()[:, 0], recorded["rolling"], weight_rounding(task.model, run)[:, 0])


@SECOND_IS_SLOW
def test_texts_that_are_generated_until_a_stop_string(task, recorded):
    options = {"temperature": 0.0, "max_new_tokens": MAX_GEN_TOKS, "stop": list(UNTIL)}
    texts, num_truncated = continuations(task, PROMPTS, options, 2)
    assert texts == recorded["generated"]
    assert num_truncated == 1


def test_choices_have_its_acc_and_acc_norm_with_their_standard_errors(task, recorded):
    found = values_of(multiple_choice(task, CHOICES, batch_size=5).metrics)
    for metric in ("acc", "acc_norm", "acc_bytes"):
        value, error = found[metric]
        assert value == in_double(recorded["tasks"][f"choices/{metric},none"])
        assert error == in_double(recorded["tasks"][f"choices/{metric}_stderr,none"])


@SECOND_IS_SLOW
def test_answers_have_its_exact_match(task, recorded):
    result = exact_match(
        task,
        recorded["questions"],
        num_shots=2,
        extract=f"regex:{PATTERN}",
        stop=UNTIL,
        max_new_tokens=MAX_GEN_TOKS,
    )
    value, error = values_of(result.metrics)["exact_match"]
    assert value == in_double(recorded["tasks"]["answers/exact_match,last"])
    assert error == in_double(recorded["tasks"]["answers/exact_match_stderr,last"])
    assert "4 of 4 records are longer than the model's context" in result.notes[0]


def test_documents_have_its_perplexities(task, recorded):
    result = rolling_perplexity(task, [{"text": text} for text in TEXTS])
    for metric in result.metrics:
        expected = recorded["tasks"][f"documents/{metric.name},none"]
        # As far as the losses of the texts may be off, which are all held in the test above.
        assert metric.value == about(expected, 2000)


# ------------------------------------------------------------------ served models


class ServedScores:
    """What a `Client` gives: the scores and texts of a served model, and nothing else of it."""

    def __init__(self, task):
        self._task = task
        self.score, self.generate = task.score, task.generate


@SECOND_IS_SLOW
def test_a_served_model_gives_the_same_wherever_its_text_fits(task, recorded, bound):
    fitting = [i for i, (context, _) in enumerate(PAIRS) if context and len(context) < 60]
    # Its begin token comes twice there.
    fitting.remove(PAIRS.index(["<|begin|>the", " cat"]))
    # The context's own tokens are not the first ones of the whole text's.
    fitting.remove(PAIRS.index(["the cat s", "at on the mat"]))
    found = log_likelihoods(ServedScores(task), [PAIRS[i] for i in fitting])
    expected = [recorded["log_likelihoods"][i] for i in fitting]
    bounds = bound([PAIRS[i] for i in fitting])
    assert_within([one.log_prob for one in found], expected, bounds)


@SECOND_IS_SLOW
def test_a_served_models_context_is_cut_and_the_run_goes_on(task, recorded, bound):
    place = PAIRS.index([LONG, " and the mat"])
    (found,) = log_likelihoods(ServedScores(task), [PAIRS[place]])
    assert 0 < found.num_truncated < len(LONG)
    # Cut between characters, not tokens, so a little of the context may differ.
    assert found.log_prob == pytest.approx(recorded["log_likelihoods"][place], rel=0.5)
    exact = task.score((LONG + " and the mat")[found.num_truncated :])
    own = exact["token_log_probs"][task.score(LONG.rstrip()[found.num_truncated :])["num_tokens"] :]
    assert_within(found.log_prob, sum(own), bound([PAIRS[place]])[0])
    texts, num_truncated = continuations(ServedScores(task), [LONG], {"max_new_tokens": 3}, 1)
    assert num_truncated == 1 and len(texts) == 1


def test_other_errors_of_a_served_model_end_the_run():
    class Broken:
        def score(self, texts):
            raise ValueError("the server is not there")

    with pytest.raises(ValueError, match="is not there"):
        log_likelihoods(Broken(), [["a", " b"]])
    with pytest.raises(ValueError, match="need the model's tokenizer"):
        rolling_log_likelihoods(Broken(), ["a"])


# ------------------------------------------------------------------ scores


def test_a_score_puts_nothing_before_a_text_but_the_tokenizers_own_begin_token(
    task, name, recorded, bound
):
    text, whole = "the cat sat", "the cat sat on the mat"
    difference = task.score(whole)["log_prob"] - task.score(text)["log_prob"]
    # Of two sums that hold the context's tokens, too.
    assert_within(difference, recorded["log_likelihoods"][0], 2 * bound(PAIRS[:1])[0])
    score = task.score(text)
    first, *others = score["token_log_probs"]
    assert (first < 0) == (name == "with_begin_token")
    scored = others if name == "without_begin_token" else [first, *others]
    assert score["perplexity"] == about(np.exp(-np.mean(scored)), len(scored))


def test_a_text_of_one_token_has_a_score(task, name):
    score = task.score("x")
    assert score["num_tokens"] == 1
    assert (score["log_prob"] == 0) == (name == "without_begin_token")
