"""Find sentences and names in English text by rules.

The rules only use capitalization. A name is a run of capitalized words, possibly with "of" or "of
the" between them ("Department of State"). A word at the start of a sentence counts only if the
documents capitalize it elsewhere more often than not. Therefore, only languages that capitalize
names, but not all nouns, are supported; text in all capitals does not work; headings look like
names; and "Congress" is a name wherever a text capitalizes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tfllm.text_mining.knowledge_graph import Sentence


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    "mr mrs ms dr messrs st gen gov sen rep hon prof capt col lt no vs etc jr sr inc co "
    "jan feb mar apr aug sept oct nov dec u.s u.n d.c"
)
TITLES = _words(
    "Mr Mr. Mrs Mrs. Ms Ms. Dr Dr. Messrs. President Senator Secretary General Governor Justice "
    "Captain Colonel Congressman Representative Ambassador Premier Chancellor King Queen Father "
    "Chairman Admiral Speaker Vice Sir"
)
"""words before a person's name that are not part of it"""
_NO_NAMES = _words(
    "I The A An My Our We You He She It They This That These Those There And But Or If In On At Of "
    "To For From By With As When While Since Until After Before Not No Yes Yet So Let Thank Mr Mrs "
    "January February March April May June July August September October November December Monday "
    "Tuesday Wednesday Thursday Friday Saturday Sunday God Sir Ladies Gentlemen"
)
_END = re.compile(r"""[.!?]+["'”’)\]]*\s+(?=["'“‘(\[]*[A-ZÀ-Þ0-9])""")
_LAST_WORD = re.compile(r"([\w.]*\w)\.$")
_WORD = re.compile(r"[^\W\d_](?:[\w&]|['’\-](?=\w)|\.(?=\w))*")


class Name(NamedTuple):
    """A name in a sentence."""

    begin: int
    """position of its first character in the sentence"""
    end: int
    text: str
    """the name, without "'s" at its end"""


def sentences(document: str, number: int = 0) -> Iterator[Sentence]:
    """Yield the sentences of a document.

    They end at . ! or ? before a capital letter or a digit, unless it follows an abbreviation or an
    initial, and at an empty line.
    """
    for block in re.finditer(r"(?:(?!\n\s*\n).)+", document, re.DOTALL):
        begin = block.start()
        for end in _END.finditer(document, block.start(), block.end()):
            last = _LAST_WORD.search(document[begin : end.start() + 1])
            word = last[1].lower() if last else ""
            if word in _ABBREVIATIONS or (len(word) == 1 and word != "i"):
                continue
            yield from _sentence(document, number, begin, end.end())
            begin = end.end()
        yield from _sentence(document, number, begin, block.end())


def _sentence(document: str, number: int, begin: int, end: int) -> Iterator[Sentence]:
    text = document[begin:end]
    if stripped := text.strip():
        yield Sentence(number, begin + len(text) - len(text.lstrip()), stripped)


class NameFinder:
    """Finds names in sentences, using the capitalization of words in all sentences.

    Args:
        seen: all sentences.
    """

    def __init__(self, seen: Iterable[Sentence]) -> None:
        self._capital: Counter[str] = Counter()
        self._small: Counter[str] = Counter()
        for sentence in seen:
            for i, word in enumerate(_WORD.findall(sentence.text)):
                if not word[0].isupper():
                    self._small[word] += 1
                elif i:
                    self._capital[word.lower()] += 1

    def names(self, text: str) -> list[Name]:
        """The names in a sentence, from left to right, without titles before them."""
        words = list(_WORD.finditer(text))
        runs: list[list[re.Match[str]]] = []
        for i, word in enumerate(words):
            if not self._may_be_name(word[0], first=i == 0):
                continue
            # Only a space, or "of (the)", may separate the words of one name.
            if runs and _joined(text[runs[-1][-1].end() : word.start()], runs[-1][-1][0]):
                runs[-1].append(word)
            else:
                runs.append([word])
        return [name for run in runs if (name := _name(text, run)) is not None]

    def _may_be_name(self, word: str, *, first: bool) -> bool:
        if not word[0].isupper() or re.split("['’]", word)[0] in _NO_NAMES:
            return False
        # A capitalized word in the middle of a sentence is a name even if it is mostly written in
        # lower case, such as "the Nation" in a text with many "nation".
        return not first or self._capital[word.lower()] > self._small[word.lower()]


def _joined(between: str, before: str) -> bool:
    if between == " " or (between == ". " and f"{before}." in TITLES | {"St."}):
        return True
    initial = between == ". " and len(before) == 1
    return initial or re.fullmatch(r" of (?:the )?", between) is not None


def _bare(word: str) -> str:
    return re.sub(r"['’]s?$", "", word)


def _name(text: str, run: list[re.Match[str]]) -> Name | None:
    # "President of the United States" is a name, but in "President Wilson" only the second word.
    while len(run) > 1 and run[0][0] in TITLES and len(text[run[0].end() : run[1].start()]) < 3:
        run = run[1:]
    found = _bare(text[run[0].start() : run[-1].end()])
    if len(found) < 2 or found in TITLES:
        return None
    return Name(run[0].start(), run[-1].end(), found)
