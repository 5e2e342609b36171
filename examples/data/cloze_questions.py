"""Make questions with answers in their context from running text, by a rule.

No set of English questions by people is available here, so these are gaps: a number or a name in a
sentence is replaced by "what", and a few of the words around it are the question. The rule, for
each passage (whole sentences, about `PASSAGE` words):

1. Candidates are numbers (with $, and followed by million, percent, ...) and names (capitalized
words
   that do not begin the sentence, possibly with "of" and "the" between them) that occur once in the
   passage.
2. One is drawn. The question is up to `AROUND` words on either side of it, in lower case and
   without punctuation, with "what" in its place.
3. The context of every fourth question is another passage, which does not contain the answer: then
   there is none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

PASSAGE = 90
AROUND = 7
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
_NUMBER = (
    r"\$?\d[\d,]*(?:\.\d+)?(?: (?:million|billion|trillion|thousand|hundred|percent|per cent))?"
)
_NAME = r"[A-Z][a-z]+(?:(?: of| the| of the)? [A-Z][a-z]+)*"
_ANSWER = re.compile(rf"(?<![\w$.,-])(?:{_NUMBER}|{_NAME})(?![\w-])")
_WORD = re.compile(r"[\w$'.,-]*\w")
_NO_NAMES = {"I", "The", "We", "It", "And", "But", "In", "This", "That", "Congress"}


def passages(text: str) -> Iterator[list[str]]:
    """Split a text into passages of whole sentences."""
    sentences: list[str] = []
    number = 0
    for sentence in _SENTENCE.split(text):
        sentences.append(sentence)
        number += len(sentence.split())
        if number >= PASSAGE:
            yield sentences
            sentences, number = [], 0


def questions(texts: Sequence[str], seed: int, *, unanswered: bool = True) -> list[dict[str, Any]]:
    """Make a question for each passage that has a candidate.

    Args:
        texts: Whole documents.
        seed: Random seed.
        unanswered: Whether every fourth question gets a context without its answer. Defaults to
            True.

    Returns:
        Records `{"question", "context", "answer", "answer_start"}`, with an empty `answer` if
        there is none.
    """
    rng = random.Random(seed)
    found = []
    for text in texts:
        for sentences in passages(text):
            context = " ".join(sentences)
            candidates = [
                (sentence, match)
                for sentence in sentences
                for match in _ANSWER.finditer(sentence)
                if match.start() > 0
                and match.group().split()[0] not in _NO_NAMES
                and context.count(match.group()) == 1
            ]
            if candidates:
                sentence, match = rng.choice(candidates)
                found.append({
                    "question": _question(sentence, match),
                    "context": context,
                    "answer": match.group(),
                    "answer_start": context.index(match.group()),
                })  # fmt: skip
    if unanswered:
        contexts = [record["context"] for record in found]
        for record in found[::4]:
            other = next((c for c in rng.sample(contexts, 20) if record["answer"] not in c), None)
            if other is not None:
                record |= {"context": other, "answer": "", "answer_start": 0}
    rng.shuffle(found)
    return found


def _question(sentence: str, match: re.Match[str]) -> str:
    before = _WORD.findall(sentence[: match.start()])[-AROUND:]
    after = _WORD.findall(sentence[match.end() :])[:AROUND]
    return " ".join([*before, "what", *after]).lower() + "?"
