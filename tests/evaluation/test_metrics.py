"""Metrics and their intervals compared with scikit-learn, SciPy, sacrebleu and manual values."""

import math
import sys

import numpy as np
import pytest
import sacrebleu
import scipy.stats
from sklearn import metrics

from tests.rounding import in_double
from tfllm.evaluation import retrieval_metrics
from tfllm.evaluation.bootstrap import confidence_interval, resampled
from tfllm.evaluation.label_metrics import (
    accuracy,
    calibration_error,
    confusion_matrix,
    macro_f1,
    span_f1,
    span_precision,
    span_recall,
)
from tfllm.evaluation.likelihood_metrics import bits_per_byte, perplexity
from tfllm.evaluation.metric_values import metric_values
from tfllm.evaluation.metrics import Metric, mean, of_sums
from tfllm.evaluation.retrieval_metrics import (
    mean_reciprocal_rank,
    ranked,
    ranks_among,
    recall_at,
    recall_from_ranks,
    reciprocal_rank_from_ranks,
    spearman,
)
from tfllm.evaluation.text_metrics import (
    bleu,
    chrf,
    exact_match,
    next_line_match,
    normalized,
    rouge,
    token_f1,
)
from tfllm.evaluation.word_segmentation import bleu_tokenizer

RANDOM = np.random.default_rng(0)
LABELS = ["spam", "ham", "news"]
TRUE = RANDOM.choice(LABELS, 60, p=[0.6, 0.35, 0.05]).tolist()
GIVEN = [t if RANDOM.random() < 0.7 else str(RANDOM.choice(LABELS)) for t in TRUE]
CHOSEN = RANDOM.integers(0, 60, 60)
"""a resample: with repeats"""

REFERENCES = [
    "the cat sat on the mat .",
    "there is a dog in the garden",
    "He said: nothing at all!",
    "one two three four five six",
    "and that was the end of the story , they say",
]
PREDICTIONS = [
    "the cat is on the mat .",
    "a dog is in the garden",
    "He said nothing at all!",
    "six five four three two",
    "and that was the end of the story , people say",
]


def picked(values, indices):
    return [values[i] for i in indices]


# ------------------------------------------------------------------ the bootstrap


def loop_only(metric):
    """The same metric without its sums."""
    return Metric(metric.name, metric.num_examples, metric.of)


METRICS = {
    "mean": mean("length", [len(t) for t in TRUE]),
    "macro": macro_f1(TRUE, GIVEN),
    "calibration": calibration_error(TRUE, GIVEN, RANDOM.uniform(0.2, 1, 60)),
    "bleu": bleu(REFERENCES, PREDICTIONS),
    "chrf": chrf(REFERENCES, PREDICTIONS),
    "perplexity": perplexity(RANDOM.uniform(5, 50, 30), RANDOM.integers(3, 20, 30)),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_sums_are_resampled_as_the_examples_themselves(metric):
    found = resampled(metric, resamples=40, seed=3)
    assert found == in_double(resampled(loop_only(metric), resamples=40, seed=3))


@pytest.mark.parametrize("name", ["mean", "macro"])
def test_the_interval_is_that_of_scipy(name):
    metric = METRICS[name]
    reference = scipy.stats.bootstrap(
        (np.arange(metric.num_examples),),
        lambda rows: metric.of(rows),
        vectorized=False,
        n_resamples=500,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    value, low, high = confidence_interval(metric, level=0.9, resamples=500, seed=7)
    assert value == metric.of(np.arange(metric.num_examples))
    assert (low, high) == in_double((reference.low, reference.high))  # of the same draws
    assert low < value < high


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(1).normal(10, 2, 400)
    value, low, high = confidence_interval(mean("x", values), resamples=4000)
    error = values.std() / math.sqrt(400)
    assert value == in_double(values.mean())
    # How far a quantile of 4,000 draws deviates, by the normal density there.
    deviation = error * math.sqrt(0.025 * 0.975 / 4000) / scipy.stats.norm.pdf(1.96)
    ends = (value - 1.96 * error, value + 1.96 * error)
    assert (low, high) == pytest.approx(ends, rel=0, abs=3 * deviation)


def test_draws_in_several_parts_are_the_same(monkeypatch):
    whole = resampled(METRICS["mean"], resamples=50)
    monkeypatch.setattr("tfllm.evaluation.bootstrap._MOST_DRAWS", 60 * 7)
    np.testing.assert_array_equal(resampled(METRICS["mean"], resamples=50), whole)


def test_resamples_in_which_a_metric_is_undefined_do_not_count():
    rare = of_sums("share", [[0, 0], [0, 0], [1, 2]], lambda s: s[:, 0] / s[:, 1])
    assert confidence_interval(rare) == (0.5, 0.5, 0.5)
    never = of_sums("share", [[0, 0]], lambda s: s[:, 0] / s[:, 1])
    assert all(map(math.isnan, confidence_interval(never)))


def test_a_difference_is_paired():
    both = RANDOM.normal(0, 5, 200)
    better, worse = mean("a", both + 1), mean("b", both)
    value, low, high = confidence_interval(better.minus(worse))
    assert (value, low, high) == in_double((1, 1, 1))
    alone = confidence_interval(better)
    assert alone[2] - alone[1] > 1
    with pytest.raises(ValueError, match=r"same examples.*200.*5"):
        better.minus(mean("c", range(5)))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"level": 95}, "between 0 and 1.*95"), ({"resamples": 0}, "at least 1; received 0")],
)
def test_a_wrong_argument_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        confidence_interval(METRICS["mean"], **given)


@pytest.mark.parametrize("metric", [accuracy([], []), bleu([], []), spearman([], [])])
def test_no_example_has_no_value(metric):
    with pytest.raises(ValueError, match=r"at least one example; received 0"):
        confidence_interval(metric)


def test_as_many_predictions_as_references():
    with pytest.raises(ValueError, match=r"for each reference \(2\); received 1"):
        accuracy(["a", "b"], ["a"])


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize("indices", [np.arange(60), CHOSEN], ids=["all", "resample"])
def test_labels_against_scikit_learn(indices):
    true, given = picked(TRUE, indices), picked(GIVEN, indices)
    assert accuracy(TRUE, GIVEN).of(indices) == in_double(metrics.accuracy_score(true, given))
    assert macro_f1(TRUE, GIVEN).of(indices) == in_double(
        metrics.f1_score(true, given, average="macro")
    )
    np.testing.assert_array_equal(
        confusion_matrix(true, given, LABELS), metrics.confusion_matrix(true, given, labels=LABELS)
    )


def test_a_missing_prediction_is_wrong_and_no_label():
    true, given = ["a", "a", "b"], ["a", None, "b"]
    assert accuracy(true, given).value == in_double(2 / 3)
    assert macro_f1(true, given).value == in_double((2 / 3 + 1) / 2)
    assert confusion_matrix(true, given, ["a", "b"]).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match=r"among the labels \['a'\]; received \['b'\]"):
        confusion_matrix(true, given, ["a"])


def test_calibration_by_hand():
    given = ["a", "b", "a", "a"]
    metric = calibration_error(["a"] * 4, given, [0.95, 0.85, 0.45, 0.5], num_bins=10)
    # (0.9, 1]: 1 - 0.95; (0.8, 0.9]: 0.85; (0.4, 0.5]: two, 1 - 0.475
    assert metric.value == in_double((0.05 + 0.85 + 2 * 0.525) / 4)
    assert metric.note == "10 bins of equal width"
    assert calibration_error(["a", "a"], ["a", None], [1.0, 0.0]).value == 0
    with pytest.raises(ValueError, match=r"probabilities, 0 to 1; received \[1.5\]"):
        calibration_error(["a", "a"], ["a", "a"], [0.5, 1.5])


def test_spans_by_hand():
    true = [[(0, 3, "PER"), (5, 9, "LOC")], [], [(1, 2, "ORG")]]
    given = [[(0, 3, "PER"), (5, 8, "LOC"), (0, 3, "PER")], [(0, 1, "PER")], []]
    assert span_precision(true, given).value == in_double(1 / 3)
    assert span_recall(true, given).value == in_double(1 / 3)
    assert span_f1(true, given).value == in_double(1 / 3)
    assert span_f1(true, given).of(np.array([0, 0])) == in_double(1 / 2)
    assert span_f1([[], []], [[], []]).value == 0


# ------------------------------------------------------------------ texts


@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [4, 0, 0, 1, 2]])
def test_bleu_and_chrf_against_sacrebleu(indices):
    true, given = picked(REFERENCES, indices), picked(PREDICTIONS, indices)
    metric = bleu(REFERENCES, PREDICTIONS)
    assert metric.of(np.array(indices)) == in_double(sacrebleu.corpus_bleu(given, [true]).score)
    assert "tok:13a" in metric.note
    assert f"version:{sacrebleu.__version__}" in metric.note
    for order in (0, 2):
        metric = chrf(REFERENCES, PREDICTIONS, word_order=order)
        expected = sacrebleu.corpus_chrf(given, [true], word_order=order).score
        assert metric.of(np.array(indices)) == in_double(expected)
    assert metric.name == "chrF++"


WORDS = ["the", "cat", "(sat", "on)", "“mat”", ".", "don't", "x", "中文", "été", "2.0,", "cats"]


@pytest.mark.parametrize("num_references", [1, 3])
def test_every_resample_of_bleu_and_chrf_is_what_sacrebleu_says_of_it(num_references):
    random = np.random.default_rng(5)

    def texts(num: int) -> list[str]:
        sizes = random.integers(0, 12, num)  # an empty one, and ones with too few words, too
        return [" ".join(random.choice(WORDS, size)) for size in sizes]

    predictions = texts(20)
    columns = [texts(20) for _ in range(num_references)]
    references = list(zip(*columns, strict=True))
    for metric, scorer in [
        (bleu(references, predictions), sacrebleu.BLEU()),
        (chrf(references, predictions), sacrebleu.CHRF()),
        (chrf(references, predictions, word_order=2), sacrebleu.CHRF(word_order=2)),
    ]:
        for indices in [np.arange(20), *random.integers(0, 20, (30, 20)), *np.arange(20)[:, None]]:
            expected = scorer.corpus_score(
                picked(predictions, indices), [picked(column, indices) for column in columns]
            )
            assert metric.of(indices) == in_double(expected.score)
        assert metric.note == scorer.get_signature().format()
        assert metric.combine(metric.statistics) == in_double(
            [metric.of(np.array([i])) for i in range(20)]
        )


SCRIPTS = {
    # A perfect answer, and sacrebleu's tokenizer for it.
    "english": ("The cat sat on the mat in the café.", "13a"),
    "spanish": ("El niño comió una manzana ayer.", "13a"),
    "russian": ("Кошка сидит на коврике у двери.", "13a"),
    "korean": ("고양이가 매트 위에 조용히 앉았다.", "13a"),
    "hindi": ("बिल्ली चटाई पर बैठी है।", "intl"),
    "arabic": ("القطة جلست على السجادة،", "intl"),
    "chinese": ("猫坐在 iPhone 旁边的垫子上。", "zh"),
    "japanese": ("猫はマットの上に座っています。", "char"),
    "thai": ("แมวนั่งบนเสื่อ", "char"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_perfect_answer_in_any_script_has_full_marks_and_another_has_not(script):
    text, tokenizer = SCRIPTS[script]
    found = [bleu([text], [text]), chrf([text], [text]), *rouge([text], [text])]
    found += [token_f1([text], [text]), exact_match([text], [text])]
    assert [metric.value for metric in found] == in_double([100] * len(found))
    assert not any(metric.warning for metric in found)
    assert f"tok:{tokenizer}|" in found[0].note
    others = [other for name, (other, _) in SCRIPTS.items() if name != script]
    for other in others:
        assert rouge([text], [other])[0].value < 50


def test_a_tokenizer_is_chosen_by_setting():
    text = "猫坐在垫子上。"
    assert "tok:char|" in bleu([text], [text], tokenize="char").note
    with pytest.raises(ValueError, match=r"auto or one of sacrebleu's.*received 'cn'"):
        bleu([text], [text], tokenize="cn")
    english = rouge([text], [text], tokenizer="english")[0]
    assert english.value == 0 and "English tokenizer" in english.note
    assert "1 of 1 references have no token (with the tokenizer english)" in english.warning
    assert rouge(["the café"], ["the café"], tokenizer="unicode")[0].note == "F1, Unicode words"
    with pytest.raises(ValueError, match="one of auto, english, unicode, or a function"):
        rouge([text], [text], tokenizer="words")


def test_english_rouge_stays_that_of_rouge_score():
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    reference, given = "The cats were sitting on mats, it said.", "A cat sits on the mat"
    expected = scorer.score(reference, given)
    one, long = rouge([reference], [given], kinds=("rouge1", "rougeL"))
    assert one.value == in_double(100 * expected["rouge1"].fmeasure)
    assert long.value == in_double(100 * expected["rougeL"].fmeasure)
    assert "English tokenizer, Porter stemmer" in one.note


def test_references_without_tokens_are_warned_of():
    assert "no reference has 4 tokens" in bleu(["a b", "c"], ["a b", "c"]).warning
    texts = ["one two three four five", " "]
    assert "BLEU: 1 of 2 references have no token" in bleu(texts, texts).warning
    assert "chrF: 1 of 2 references" in chrf(texts, texts).warning
    assert "ROUGE: 1 of 2 references" in rouge(["yes sir", "?!"], ["yes", "no"])[0].warning
    (shown,) = metric_values([bleu(texts, texts)])
    assert "1 of 2" in shown.warning


def test_one_reference_in_another_script_is_not_lost_among_english_ones():
    texts = ["the cat sat on the mat and was happy"] * 50 + ["猫坐在垫子上"]
    assert rouge(texts, texts)[0].value == 100


def test_answers_in_other_scripts_by_hand():
    assert exact_match(["北京。"], ["北京"]).value == 100
    assert exact_match(["दिल्ली।", "«Москва»"], ["दिल्ली", "Москва"]).value == 100
    # Three of four characters: precision 1, recall 3/4.
    assert token_f1(["北京大学"], ["北京大"]).value == in_double(100 * 2 * 0.75 / 1.75)
    # All of it is punctuation or an article: it stays what it is.
    assert exact_match(["+", "A"], ["-", "the"]).value == 0
    assert exact_match(["+", "A"], ["+", "a"]).value == 100


def test_several_references():
    several = [[r, p] for r, p in zip(REFERENCES, PREDICTIONS, strict=True)]
    assert bleu(several, PREDICTIONS).value == in_double(100)
    with pytest.raises(
        ValueError, match=r"the same number of references for each example; received \[1, 2\]"
    ):
        bleu([["a"], ["a", "b"]], ["a", "b"])


def test_rouge_by_hand():
    one, two, long = rouge(["The cats sat on the mat"], ["the cat lay on the mat"])
    assert one.name == "ROUGE-1"
    assert one.value == in_double(100 * 5 / 6)  # with Porter's stems, cats is cat
    assert two.value == in_double(100 * 3 / 5)
    assert long.value == in_double(100 * 5 / 6)
    (one,) = rouge(["中文 好"], ["中 文 好"], kinds=["rouge1"], tokenizer=list)
    assert one.value == in_double(100 * 2 * 4 / 9)


def test_what_is_not_installed_is_told(monkeypatch):
    for name in ("sacrebleu", "rouge_score"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"sacrebleu is needed.*pip install 'tfllm\[evaluate\]'"):
        bleu(["a"], ["a"])
    with pytest.raises(ImportError, match=r"rouge-score is needed"):
        rouge(["a"], ["a"])


def test_answers_by_hand():
    assert normalized("The  Eiffel-Tower, (a Paris)!") == "eiffeltower paris"
    references = [["Denver Broncos", "the Broncos"], "in 1999", "", ""]
    predictions = ["The Denver Broncos!", "1999 or so", "", "no"]
    assert exact_match(references, predictions).value == in_double(50)
    # 1; 2 * 1 / (2 + 3); nothing is nothing; something is not
    assert token_f1(references, predictions).value == in_double(100 * (1 + 0.4 + 1 + 0) / 4)
    assert exact_match(references, predictions).of(np.array([1, 1, 3, 0])) == 25
    with pytest.raises(ValueError, match="at least one reference"):
        exact_match([[]], [""])


def test_the_next_line():
    references = ["    return x\n", "x = 1", "y"]
    predictions = ["    return x   \nelse:", " x = 1", "y\n\n"]
    assert next_line_match(references, predictions).value == in_double(100 * 2 / 3)


# ------------------------------------------------------------------ retrieval, likelihood


def test_retrieval_by_hand():
    scores = np.array([[0.1, 0.9, 0.5, 0.9], [0.3, 0.2, 0.1, 0.0]])
    rankings = ranked(scores)
    assert rankings.tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]
    relevant = [{3, 0}, [2]]
    assert recall_at(2, relevant, rankings).value == in_double((1 / 2 + 0) / 2)
    assert recall_at(3, relevant, rankings).value == in_double((1 / 2 + 1) / 2)
    assert mean_reciprocal_rank(relevant, rankings).value == in_double((1 / 2 + 1 / 3) / 2)
    assert mean_reciprocal_rank([[0], [3]], ranked(scores, 2)).value == 0
    with pytest.raises(ValueError, match="query 2 has none"):
        recall_at(1, [[0], []], rankings)
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall_at(0, relevant, rankings)


def test_ranks_in_blocks_are_those_of_the_whole_ranking(monkeypatch):
    random = np.random.default_rng(2)
    queries, documents = (random.integers(-2, 3, (num, 3)).astype(np.float32) for num in (23, 40))
    relevant = [set(random.integers(0, 40, random.integers(1, 5)).tolist()) for _ in queries]
    rankings = ranked(queries @ documents.T)  # whole numbers: with many ties
    sizes = []

    def counted(scores):
        sizes.append(len(scores))
        return ranked(scores)

    monkeypatch.setattr(retrieval_metrics, "ranked", counted)
    monkeypatch.setattr(retrieval_metrics, "_MOST_SCORES", 5 * 40 + 1)
    ranks = ranks_among(queries, documents, relevant)
    assert sizes == [5, 5, 5, 5, 3]
    for given, order, right in zip(ranks, rankings.tolist(), relevant, strict=True):
        assert given.tolist() == sorted(order.index(document) + 1 for document in right)
    for k in (1, 10):
        expected = recall_at(k, relevant, rankings)
        np.testing.assert_array_equal(recall_from_ranks(k, ranks).statistics, expected.statistics)
    expected = mean_reciprocal_rank(relevant, rankings)
    np.testing.assert_array_equal(reciprocal_rank_from_ranks(ranks).statistics, expected.statistics)
    assert reciprocal_rank_from_ranks([np.array([np.inf]), np.array([2.0, np.inf])]).value == 0.25
    assert recall_from_ranks(10, [np.array([np.inf]), np.array([2.0, np.inf])]).value == 0.25


@pytest.mark.parametrize("indices", [np.arange(60), CHOSEN], ids=["all", "resample"])
def test_spearman_against_scipy(indices):
    true = RANDOM.integers(0, 6, 60).astype(float)  # with ties
    given = true + RANDOM.normal(0, 2, 60)
    expected = scipy.stats.spearmanr(true[indices], given[indices]).statistic
    assert spearman(true, given).of(indices) == in_double(expected)
    assert spearman(np.ones(60), given).of(indices) == 0


def test_likelihood_by_hand():
    losses, tokens, sizes = [3.0, 8.0], [2, 3], [10, 12]
    assert perplexity(losses, tokens).value == in_double(math.exp(11 / 5))
    assert perplexity(losses, tokens).of(np.array([1, 1])) == in_double(math.exp(16 / 6))
    assert bits_per_byte(losses, sizes).value == in_double(11 / 22 / math.log(2))
    assert perplexity([1e6], [1]).value < math.inf


@pytest.mark.parametrize("text", ["12.5 %", "3 4 5 6", "", "!?"])
def test_references_without_letters_have_the_usual_bleu_tokenizer(text):
    assert bleu_tokenizer([text]) == "13a"
    assert bleu_tokenizer([text, "北京"]) == "zh"
