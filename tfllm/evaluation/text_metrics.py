"""Metrics of generated text compared with references: translations, summaries, answers, lines."""

from __future__ import annotations

import collections
import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.evaluation.metrics import Metric, check_lengths, divide, mean, of_sums
from tfllm.evaluation.word_segmentation import (
    bleu_tokenizer,
    is_english,
    split_unspaced,
    unicode_words,
)

References = Sequence[str] | Sequence[Sequence[str]]
"""reference of each example, or several references, each of which is correct"""


def bleu(references: References, predictions: Sequence[str], *, tokenize: str = "auto") -> Metric:
    """Corpus BLEU (Papineni et al., 2002), 0 to 100, as sacrebleu computes it.

    Its note is sacrebleu's signature, which names the tokenizer.

    Args:
        references: one or several references per example, equally many for all.
        predictions: one prediction per example.
        tokenize: tokenizer of sacrebleu: "13a", "intl", "zh", "char", "flores200", ...; "auto"
            chooses by the script of the references (`word_segmentation.bleu_tokenizer`). Defaults
            to "auto".

    Raises:
        ImportError: sacrebleu, or a package that the tokenizer needs, is not installed.
        ValueError: sacrebleu has no such tokenizer.
    """
    columns = _columns("BLEU", references, predictions)
    sacrebleu_metrics = _sacrebleu()
    if tokenize == "auto":
        tokenize = bleu_tokenizer([reference for column in columns for reference in column])
    elif tokenize not in sacrebleu_metrics.BLEU.TOKENIZERS:
        raise ValueError(
            f"BLEU's tokenizer must be auto or one of sacrebleu's, "
            f"{', '.join(sorted(sacrebleu_metrics.BLEU.TOKENIZERS))}; received {tokenize!r}"
        )
    scorer = sacrebleu_metrics.BLEU(tokenize=tokenize)
    if not columns:
        return Metric("BLEU", 0, lambda indices: 0.0)
    # The counts of each sentence, as a corpus of its own; their sums are those of the corpus.
    rows = []
    for prediction, *given in zip(predictions, *columns, strict=True):
        found = scorer.corpus_score([prediction], [[reference] for reference in given])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])

    def combine(sums: np.ndarray) -> np.ndarray:
        orders = scorer.max_ngram_order
        return np.asarray([
            scorer.compute_bleu(
                counts[:orders],
                counts[orders:],
                sys_len,
                ref_len,
                smooth_method=scorer.smooth_method,
                smooth_value=scorer.smooth_value,
                effective_order=scorer.effective_order,
                max_ngram_order=orders,
            ).score
            for sys_len, ref_len, *counts in np.rint(sums).astype(np.int64).tolist()
        ])  # fmt: skip

    metric = of_sums("BLEU", rows, combine, note=scorer.get_signature().format())
    lengths = [
        max(len(scorer.tokenizer(reference).split()) for reference in given)
        for given in zip(*columns, strict=True)
    ]
    return dataclasses.replace(metric, warning=_bleu_warning(lengths, tokenize))


def _bleu_warning(lengths: Sequence[int], tokenize: str) -> str:
    """A warning if the references have too few tokens for BLEU.

    Args:
        lengths: number of tokens in the longest reference of each example.
        tokenize: name of the tokenizer.
    """
    if max(lengths) < 4:
        return (
            f"BLEU is 0 whatever the predictions are: with the tokenizer {tokenize} no reference "
            "has 4 tokens, but BLEU counts sequences of 1 to 4; use chrF or another tokenizer"
        )
    return _no_tokens("BLEU", sum(not length for length in lengths), len(lengths), tokenize)


def _no_tokens(name: str, number: int, total: int, tokenizer: str) -> str:
    if not number:
        return ""
    return (
        f"{name}: {number:,} of {total:,} references have no token (with the tokenizer "
        f"{tokenizer}), so that no prediction can match them"
    )


def chrf(references: References, predictions: Sequence[str], *, word_order: int = 0) -> Metric:
    """Corpus chrF (Popović, 2015), 0 to 100, as sacrebleu computes it.

    Args:
        references: one or several references per example, equally many for all.
        predictions: one prediction per example.
        word_order: maximum length of word n-grams; 2 for chrF++. Defaults to 0.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    name = "chrF" + "+" * word_order
    scorer = _sacrebleu().CHRF(word_order=word_order)
    columns = _columns(name, references, predictions)
    if not columns:
        return Metric(name, 0, lambda indices: 0.0)
    scorer.corpus_score(list(predictions[:1]), [column[:1] for column in columns])
    empty = sum(not any(map(str.strip, given)) for given in zip(*columns, strict=True))
    rows = []
    for prediction, *several in zip(predictions, *columns, strict=True):
        given = _ngrams(prediction, scorer.char_order, word_order)
        matches = [_matches(_ngrams(r, scorer.char_order, word_order), given) for r in several]
        scores = _mean_f(np.asarray(matches, np.float64), scorer.beta)
        rows.append(matches[int(scores.argmax())])  # the best of several references
    metric = of_sums(
        name,
        rows,
        lambda sums: _mean_f(sums, scorer.beta),
        # The signature needs a scored corpus, for the number of references.
        note=scorer.get_signature().format(),
    )
    return dataclasses.replace(
        metric, warning=_no_tokens(name, empty, len(predictions), "of characters")
    )


def _ngrams(text: str, char_order: int, word_order: int) -> list[collections.Counter[Any]]:
    """Counts of the n-grams of characters (without spaces) and of words, for n = 1, 2, ..."""
    letters = "".join(text.split())
    words = [part for word in text.split() for part in _without_a_mark(word)]
    return [
        *(collections.Counter(_sequences(letters, n)) for n in range(1, char_order + 1)),
        *(collections.Counter(_sequences(tuple(words), n)) for n in range(1, word_order + 1)),
    ]


def _sequences(of: Any, size: int) -> list[Any]:
    return [of[i : i + size] for i in range(len(of) - size + 1)]


def _without_a_mark(word: str) -> list[str]:
    """Split off one punctuation character after a word, or otherwise before it."""
    if len(word) > 1 and word[-1] in string.punctuation:
        return [word[:-1], word[-1]]
    if len(word) > 1 and word[0] in string.punctuation:
        return [word[0], word[1:]]
    return [word]


def _matches(reference: Sequence[Any], prediction: Sequence[Any]) -> list[int]:
    """Numbers of n-grams of the prediction, of the reference, and common ones, for each order."""
    return [
        count
        for true, given in zip(reference, prediction, strict=True)
        # An order for which the reference is too short does not count.
        for count in (given.total() if true else 0, true.total(), (true & given).total())
    ]


def _mean_f(sums: np.ndarray, beta: float) -> np.ndarray:
    """F-score of the mean precision and recall over the orders that both texts have, 0 to 100.

    Args:
        sums: counts of `_matches`, `[R, 3 * orders]`.
        beta: weight of recall relative to precision.
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
) -> list[Metric]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004), 0 to 100, as rouge-score computes it.

    The notes name the tokenizer.

    Args:
        references: one reference per example.
        predictions: one prediction per example.
        kinds: variants of ROUGE, by their names in rouge-score.
        use_stemmer: whether the English tokenizer uses the Porter stemmer. Defaults to True.
        tokenizer: "english": that of rouge-score, which keeps only runs of a-z and 0-9 in lower
            case, and therefore nothing of Russian, Hindi or Chinese; "unicode":
            `word_segmentation.unicode_words`; "auto": english if nearly all letters of the
            references are ASCII, otherwise unicode; or a function from text to tokens. Defaults to
            "auto".

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
    metrics = [
        mean(
            f"ROUGE-{kind.removeprefix('rouge')}",
            [100 * score[kind].fmeasure for score in scores],
            note=note,
        )
        for kind in kinds
    ]
    warning = _no_tokens("ROUGE", empty, len(references), named)
    return [dataclasses.replace(metric, warning=warning) for metric in metrics]


ROUGE_TOKENIZERS = ("auto", "english", "unicode")
"""names of the tokenizers of `rouge`"""


class _Tokens:
    """Wraps a function as a tokenizer of rouge-score."""

    def __init__(self, function: Any) -> None:
        self.tokenize = function


def exact_match(references: References, predictions: Sequence[str | None]) -> Metric:
    """Percentage of answers that equal a reference, after SQuAD's normalization.

    Args:
        references: one or several answers per example; an empty one means "no answer".
        predictions: one answer per example; None for a question that was refused, which counts as
            wrong.
    """
    check_lengths(references, predictions)
    return mean("exact match", [
        100.0 * any(p is not None and normalized(r) == normalized(p) for r in _several(given))
        for given, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def token_f1(references: References, predictions: Sequence[str | None]) -> Metric:
    """Mean F1 between the words of the answer and the best reference, 0 to 100.

    As in SQuAD 2.0, if one is empty after normalization, F1 is 1 if both are, otherwise 0.

    Args:
        references: one or several answers per example; an empty one means "no answer".
        predictions: one answer per example; None for a question that was refused, which counts as
            wrong.
    """
    check_lengths(references, predictions)
    return mean("F1", [
        100.0 * max(0.0 if p is None else _word_f1(r, p) for r in _several(given))
        for given, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def next_line_match(references: Sequence[str], predictions: Sequence[str]) -> Metric:
    """Percentage of completions whose first line equals that of the reference.

    White space at the end of a line is ignored, but not at its beginning, as in Python.

    Args:
        references: true continuation of each example, of which the first line counts.
        predictions: completion of each example, of which the first line counts.
    """
    check_lengths(references, predictions)
    return mean("exact match of the next line", [
        100.0 * (first_line(r) == first_line(p))
        for r, p in zip(references, predictions, strict=True)
    ])  # fmt: skip


def first_line(text: str) -> str:
    """The first line of a text, without white space at its end."""
    return text.split("\n", 1)[0].rstrip()


def normalized(answer: str) -> str:
    """Normalize an answer: lower case, no punctuation, no English articles, single spaces.

    This is the normalization of SQuAD's evaluation (Rajpurkar et al., 2016), which removes ASCII
    punctuation; for an answer with non-ASCII letters, all punctuation is removed (as by Lewis et
    al., MLQA, 2020). An answer from which nothing would be left, such as "+" or "A", is kept.
    """
    lower = answer.lower()
    plain = "".join(c for c in lower if c not in string.punctuation)
    if _OTHER_LETTERS.search(plain):
        plain = regex.sub(r"\p{P}", "", plain)
    words = regex.sub(r"\b(a|an|the)\b", " ", plain).split()
    return " ".join(words or lower.split())


_OTHER_LETTERS = regex.compile(r"(?V1)[\p{L}--[A-Za-z]]")


def _answer_words(answer: str) -> list[str]:
    """The words of an answer; for scripts without spaces, its single letters."""
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
    """The first references of all examples, the second ones, ...; empty without examples.

    Raises:
        ValueError: the examples have different numbers of references.
    """
    check_lengths(references, predictions)
    several = [list(_several(given)) for given in references]
    if len({len(given) for given in several}) > 1:
        raise ValueError(
            f"{name} needs the same number of references for each example; received "
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
        f"{what}: {package} is needed, but cannot be imported ({error}); install the extra: "
        "pip install 'tfllm[evaluate]'"
    )
