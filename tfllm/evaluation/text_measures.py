"""Measures of generated text against a reference: translations, summaries, answers, lines."""

from __future__ import annotations

import collections
import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.evaluation.measures import Measure, check_lengths, divide, mean, of_sums
from tfllm.evaluation.word_segmentation import (
    bleu_tokenizer,
    is_english,
    split_unspaced,
    unicode_words,
)

References = Sequence[str] | Sequence[Sequence[str]]
"""of each example its reference, or several of which any is right"""


def bleu(references: References, predictions: Sequence[str], *, tokenize: str = "auto") -> Measure:
    """BLEU of the whole corpus (Papineni et al., 2002), 0 to 100, as sacrebleu computes it.

    Its note is sacrebleu's signature, which names the tokenizer.

    Args:
        references: one or several of each example, as many for each.
        predictions: one of each example.
        tokenize: sacrebleu's tokenizer: "13a", "intl", "zh", "char", "flores200", ...; "auto":
            what suits the references' script (`word_segmentation.bleu_tokenizer`).

    Raises:
        ImportError: sacrebleu is not installed, or what the tokenizer needs.
        ValueError: sacrebleu has no such tokenizer.
    """
    columns = _columns("BLEU", references, predictions)
    metrics = _sacrebleu()
    if tokenize == "auto":
        tokenize = bleu_tokenizer([reference for column in columns for reference in column])
    elif tokenize not in metrics.BLEU.TOKENIZERS:
        raise ValueError(
            f"BLEU's tokenizer must be auto or one of sacrebleu's, "
            f"{', '.join(sorted(metrics.BLEU.TOKENIZERS))}; received {tokenize!r}"
        )
    metric = metrics.BLEU(tokenize=tokenize)
    if not columns:
        return Measure("BLEU", 0, lambda indices: 0.0)
    # The counts of each sentence, as of a corpus of one; what they sum up to is the corpus's.
    rows = []
    for prediction, *given in zip(predictions, *columns, strict=True):
        found = metric.corpus_score([prediction], [[reference] for reference in given])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])

    def combine(sums: np.ndarray) -> np.ndarray:
        orders = metric.max_ngram_order
        return np.asarray([
            metric.compute_bleu(
                counts[:orders],
                counts[orders:],
                sys_len,
                ref_len,
                smooth_method=metric.smooth_method,
                smooth_value=metric.smooth_value,
                effective_order=metric.effective_order,
                max_ngram_order=orders,
            ).score
            for sys_len, ref_len, *counts in np.rint(sums).astype(np.int64).tolist()
        ])  # fmt: skip

    measure = of_sums("BLEU", rows, combine, note=metric.get_signature().format())
    lengths = [
        max(len(metric.tokenizer(reference).split()) for reference in given)
        for given in zip(*columns, strict=True)
    ]
    return dataclasses.replace(measure, warning=_bleu_warning(lengths, tokenize))


def _bleu_warning(lengths: Sequence[int], tokenize: str) -> str:
    """What the tokens of the longest reference of each example make of BLEU."""
    if max(lengths) < 4:
        return (
            f"BLEU is 0 whatever the predictions are: with the tokenizer {tokenize} no reference "
            f"has 4 tokens, and BLEU counts sequences of 1 to 4; compare by chrF, or choose another"
        )
    return _no_tokens("BLEU", sum(not length for length in lengths), len(lengths), tokenize)


def _no_tokens(name: str, number: int, total: int, tokenizer: str) -> str:
    if not number:
        return ""
    return (
        f"{name}: {number:,} of {total:,} references have no token (with the tokenizer "
        f"{tokenizer}): no prediction is right there"
    )


def chrf(references: References, predictions: Sequence[str], *, word_order: int = 0) -> Measure:
    """chrF of the whole corpus (Popović, 2015), 0 to 100, as sacrebleu computes it.

    Args:
        references: one or several of each example, as many for each.
        predictions: one of each example.
        word_order: 2 for chrF++.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    name = "chrF" + "+" * word_order
    metric = _sacrebleu().CHRF(word_order=word_order)
    columns = _columns(name, references, predictions)
    if not columns:
        return Measure(name, 0, lambda indices: 0.0)
    metric.corpus_score(list(predictions[:1]), [column[:1] for column in columns])
    empty = sum(not any(map(str.strip, given)) for given in zip(*columns, strict=True))
    rows = []
    for prediction, *several in zip(predictions, *columns, strict=True):
        given = _ngrams(prediction, metric.char_order, word_order)
        matches = [_matches(_ngrams(r, metric.char_order, word_order), given) for r in several]
        scores = _mean_f(np.asarray(matches, np.float64), metric.beta)
        rows.append(matches[int(scores.argmax())])  # of several references the best
    measure = of_sums(
        name,
        rows,
        lambda sums: _mean_f(sums, metric.beta),
        # Which needs a corpus that was scored, to know how many references there are.
        note=metric.get_signature().format(),
    )
    return dataclasses.replace(
        measure, warning=_no_tokens(name, empty, len(predictions), "of characters")
    )


def _ngrams(text: str, char_order: int, word_order: int) -> list[collections.Counter[Any]]:
    """How often each sequence of 1, 2, ... characters (spaces left out) and words is there."""
    letters = "".join(text.split())
    words = [part for word in text.split() for part in _without_a_mark(word)]
    return [
        *(collections.Counter(_sequences(letters, n)) for n in range(1, char_order + 1)),
        *(collections.Counter(_sequences(tuple(words), n)) for n in range(1, word_order + 1)),
    ]


def _sequences(of: Any, size: int) -> list[Any]:
    return [of[i : i + size] for i in range(len(of) - size + 1)]


def _without_a_mark(word: str) -> list[str]:
    """A word and the punctuation behind it, or else before it: one character at most."""
    if len(word) > 1 and word[-1] in string.punctuation:
        return [word[:-1], word[-1]]
    if len(word) > 1 and word[0] in string.punctuation:
        return [word[0], word[1:]]
    return [word]


def _matches(reference: Sequence[Any], prediction: Sequence[Any]) -> list[int]:
    """Of each order, how many sequences the prediction has, the reference has, and both have."""
    return [
        count
        for true, given in zip(reference, prediction, strict=True)
        # An order that the reference is too short for does not count.
        for count in (given.total() if true else 0, true.total(), (true & given).total())
    ]


def _mean_f(sums: np.ndarray, beta: float) -> np.ndarray:
    """F of the means of precision and recall over the orders that both texts have, 0 to 100.

    Args:
        sums: `[R, 3 * orders]`, as `_matches` counts.
        beta: how many times as much recall counts as precision.
    """
    given, true, both = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    counted = (given > 0) & (true > 0)
    orders = counted.sum(1)
    precision = divide((divide(both, given) * counted).sum(1), orders)
    recall = divide((divide(both, true) * counted).sum(1), orders)
    factor = beta**2
    return 100 * divide((1 + factor) * precision * recall, factor * precision + recall)


def rouge(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    use_stemmer: bool = True,
    tokenizer: str | Callable[[str], list[str]] = "auto",
) -> list[Measure]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), 0 to 100, as rouge-score computes it.

    The notes say which tokenizer it was.

    Args:
        references: one of each example.
        predictions: as many.
        kinds: names of rouge-score.
        use_stemmer: Porter's, of the English tokenizer.
        tokenizer: "english": rouge-score's own, runs of a-z and 0-9 in lower case, which leaves
            nothing of Russian, Hindi or Chinese; "unicode": `word_segmentation.unicode_words`;
            "auto": english where nearly all letters of the references are ASCII, else unicode; or a
            function from text to tokens.

    Raises:
        ImportError: rouge-score is not installed.
        ValueError: there is no such tokenizer.
    """
    check_lengths(references, predictions)
    try:
        from rouge_score import rouge_scorer, tokenizers
    except ImportError as error:
        raise _missing("ROUGE", "rouge-score", error) from error
    if tokenizer == "auto":
        tokenizer = "english" if is_english(references) else "unicode"
    if isinstance(tokenizer, str) and tokenizer not in ROUGE_TOKENIZERS[1:]:
        raise ValueError(
            f"ROUGE's tokenizer must be one of {', '.join(ROUGE_TOKENIZERS)}, or a function; "
            f"received {tokenizer!r}"
        )
    if tokenizer == "english":
        tokens: Any = tokenizers.DefaultTokenizer(use_stemmer)
        note = "F1, rouge-score's English tokenizer, " + (
            "Porter stemmer" if use_stemmer else "no stemmer"
        )
    else:
        tokens = _Tokens(unicode_words if tokenizer == "unicode" else tokenizer)
        note = "F1, Unicode words" if tokenizer == "unicode" else "F1, own tokenizer"
    scorer = rouge_scorer.RougeScorer(list(kinds), tokenizer=tokens)
    scores = [scorer.score(r, p) for r, p in zip(references, predictions, strict=True)]
    empty = sum(not tokens.tokenize(reference) for reference in references)
    named = tokenizer if isinstance(tokenizer, str) else "given"
    measures = [
        mean(
            f"ROUGE-{kind.removeprefix('rouge')}",
            [100 * score[kind].fmeasure for score in scores],
            note=note,
        )
        for kind in kinds
    ]
    warning = _no_tokens("ROUGE", empty, len(references), named)
    return [dataclasses.replace(measure, warning=warning) for measure in measures]


ROUGE_TOKENIZERS = ("auto", "english", "unicode")
"""of `rouge`, by name"""


class _Tokens:
    """A tokenizer as rouge-score calls one."""

    def __init__(self, function: Any) -> None:
        self.tokenize = function


def exact_match(references: References, predictions: Sequence[str | None]) -> Measure:
    """The share of answers that are a reference, after SQuAD's normalisation, 0 to 100.

    Args:
        references: of each example one answer or several; an empty one means: no answer.
        predictions: as many; None where the question was refused, which is wrong.
    """
    check_lengths(references, predictions)
    return mean("exact match", [
        100.0 * any(p is not None and normalized(r) == normalized(p) for r in _several(given))
        for given, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def token_f1(references: References, predictions: Sequence[str | None]) -> Measure:
    """Mean over examples of the F1 between the words of answer and best reference, 0 to 100.

    As SQuAD 2.0 has it: where either is empty after normalisation, 1 if both are, else 0.

    Args:
        references: of each example one answer or several; an empty one means: no answer.
        predictions: as many; None where the question was refused, which is wrong.
    """
    check_lengths(references, predictions)
    return mean("F1", [
        100.0 * max(0.0 if p is None else _word_f1(r, p) for r in _several(given))
        for given, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def next_line_match(references: Sequence[str], predictions: Sequence[str]) -> Measure:
    """The share of completions whose first line is the reference's, 0 to 100.

    White space at the end of a line does not count; at its begin it does, as in Python.

    Args:
        references: what follows; of it the first line.
        predictions: as many; of each the first line.
    """
    check_lengths(references, predictions)
    return mean("exact match of the next line", [
        100.0 * (first_line(r) == first_line(p))
        for r, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def first_line(text: str) -> str:
    """Up to the end of the line, without white space there."""
    return text.split("\n", 1)[0].rstrip()


def normalized(answer: str) -> str:
    """Lower case, without punctuation and English articles, words parted by one space.

    The normalisation of SQuAD's evaluation (Rajpurkar et al., 2016), which knows ASCII punctuation;
    of an answer with other letters than ASCII's all punctuation is left out (as by Lewis et al.,
    MLQA, 2020). An answer of nothing but these, such as "+" or "A", stays.
    """
    lower = answer.lower()
    plain = "".join(c for c in lower if c not in string.punctuation)
    if _OTHER_LETTERS.search(plain):
        plain = regex.sub(r"\p{P}", "", plain)
    words = regex.sub(r"\b(a|an|the)\b", " ", plain).split()
    return " ".join(words or lower.split())


_OTHER_LETTERS = regex.compile(r"(?V1)[\p{L}--[A-Za-z]]")


def _answer_words(answer: str) -> list[str]:
    """What white space parts; letters of scripts without it one by one."""
    return [part for word in normalized(answer).split() for part in split_unspaced(word)]


def _word_f1(reference: str, prediction: str) -> float:
    true, given = _answer_words(reference), _answer_words(prediction)
    if not true or not given:
        return float(true == given)
    common = sum((collections.Counter(true) & collections.Counter(given)).values())
    return 2 * common / (len(true) + len(given))


def _several(given: str | Sequence[str]) -> Sequence[str]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise ValueError('an example must have at least one reference ("" for no answer); it has 0')
    return given


def _columns(name: str, references: References, predictions: Sequence[str]) -> list[list[str]]:
    """The first references of all examples, the second ones, ...; none where there is no example.

    Raises:
        ValueError: the examples have differently many.
    """
    check_lengths(references, predictions)
    several = [list(_several(given)) for given in references]
    if len({len(given) for given in several}) > 1:
        raise ValueError(
            f"{name} needs as many references for each example; received "
            f"{sorted({len(given) for given in several})}"
        )
    return [list(column) for column in zip(*several, strict=True)]


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise _missing("BLEU and chrF", "sacrebleu", error) from error
    return metrics


def _missing(what: str, package: str, error: ImportError) -> ImportError:
    return ImportError(
        f"{what}: {package} is needed and cannot be imported ({error}); install the extra: "
        "pip install 'tfllm[evaluate]'"
    )
