"""Find relations that a sentence states, by the words between and around its names.

- "countries such as Chile and Peru", "... including ...", "... especially ...", "Chile, Peru and
  other countries" (Hearst, 1992); "Chile is a country", "Chile, a country ...": `is a`.
- "Congress rejected the Treaty": the verb between two names, with auxiliaries before it and a
  preposition after it. It must be in a list, or end in -ed; sentences with "not" do not match.

Sentences are not parsed. A name after a preposition is not taken as a subject ("the state of the
Union is ..."), nor one followed by a noun as an object ("negotiated with the Soviet leaders"): this
favours precision over recall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tfllm.text_mining.name_finding import Name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IS_A = "is a"

_NAME = "\x00(\\d+)\x00"
_LIST = f"(?:the )?{_NAME}(?:(?:,? and |,? or |, )(?:the )?{_NAME})*"
_WORDS = r"(?<![\w'’-])((?:[a-z][\w-]* ){0,3}[a-z][\w-]*)"
_AUXILIARY = "has|have|had|is|was|are|were|will|would|did|must|should|shall|can|could|be|been|also"
_PREPOSITION = "to|with|by|in|into|from|on|upon|for|against|at|of|over|under"
_PAST = _words(
    "became began broke brought built came chose fought found gave got held kept knew led left "
    "lost made met paid ran said saw sent set sold sought spoke spent stood took taught told won "
    "went wrote undertook given taken made sent shown"
)
_PRESENT = _words(
    "accepts allows asks backs becomes believes belongs borders calls comes controls continues "
    "depends faces follows gives governs helps holds includes joins keeps knows leads lies lives "
    "makes meets needs offers opposes owes owns produces protects provides receives recognizes "
    "remains represents requires rules says seeks sees sends serves shares shows speaks stands "
    "supports takes threatens wants"
)
_NO_VERBS = "united hundred need indeed speed seed feed breed deed weed kindred sacred naked wicked"
_VERB = f"(?:(?!(?:{'|'.join(_NO_VERBS.split())})\\b)[a-z]+ed|{'|'.join(sorted(_PAST | _PRESENT))})"

_BEFORE = re.compile(f"{_WORDS},? (?:such as|including|especially|particularly) (?P<list>{_LIST})")
# The words of a class must not continue with a name or "'s".
_WHOLE = "(?![\\w'’-]| \x00)"
_OTHER = re.compile(f"(?P<list>{_LIST}),? (?:and|or) other {_WORDS}{_WHOLE}")
_IS = re.compile(f"{_NAME} (?:is|was|are|were) (?:an?|the|one of the) {_WORDS}{_WHOLE}")
# This must not match a list: "the Senate, the diplomatic corps, the Supreme Court".
_APPOSITION = re.compile(f"{_NAME}, (?:an?|the) {_WORDS}(?=[,;.])(?!, (?:and |or )?the )")
_STATES = re.compile(
    f"{_NAME} (?P<verb>(?:(?:{_AUXILIARY}) )*(?:[a-z]+ly )?{_VERB}(?: (?:{_PREPOSITION}))?)"
    f" (?:the |an? )?{_NAME}"
)
_STOP = _words(
    "a an the of in to for with by on from at as and or but that which who whom whose this these "
    "those such other our their its his her my your all some any many most more several is was are "
    "were be been not no we they it he she than then so very now also into over under among "
    "through because if when where while have has had will would can could may must "
    "between against"
)
_OWNER = _words("his her its their our my your")
_INSIDE = _words(
    "of to in from with by for on between at under into against than before across after within "
    "near during throughout toward involving"
)
_NO_CLASS = _words(
    "one same only first last next time way matter part number kind result thing things others "
    "latter former it ones areas area elsewhere here there"
)


def stated(text: str, names: Sequence[Name]) -> Iterator[tuple[int | str, str, int | str]]:
    """Yield the relations (source, relation, target) that a sentence states.

    Args:
        text: the sentence.
        names: its names, from left to right, without overlaps.

    Returns:
        Source and target are indices of `names`, or the name of a class.
    """
    masked, at = "", 0
    for i, name in enumerate(names):
        masked += f"{text[at : name.begin]}\x00{i}\x00"
        # "Germany's leaders rejected" is not a statement about Germany.
        masked += "'s" if text[name.begin : name.end] != name.text else ""
        at = name.end
    masked += text[at:]
    for pattern, last in ((_BEFORE, True), (_OTHER, False)):
        for match in pattern.finditer(masked):
            words = match[1] if last else match[match.re.groups]
            kind = _class_before(words) if last else _class_after(words)
            for member in re.findall(_NAME, match["list"]) if kind else ():
                yield int(member), IS_A, kind
    for pattern in (_IS, _APPOSITION):
        for match in pattern.finditer(masked):
            kind = _class_after(match[2])
            if kind and not _is_inside(masked[: match.start()], _INSIDE | {"and", "or"}):
                yield int(match[1]), IS_A, kind
    # Each name may be the target of one and the source of the next.
    found = _STATES.search(masked)
    while found is not None:
        follows = re.match(" ([a-z]+)", masked[found.end() :])
        alone = follows is None or follows[1] in _STOP - _OWNER or follows[1].endswith("ly")
        if alone and not _is_inside(masked[: found.start()], _INSIDE):
            yield int(found[1]), found["verb"], int(found[found.re.groups])
        found = _STATES.search(masked, found.end(1) + 1)


def _is_inside(before: str, words: frozenset[str]) -> bool:
    """Whether the last word, except for an article, is one of `words`."""
    last = before.split()
    if last and last[-1].lower() in ("the", "a", "an", *_OWNER):
        last.pop()
    return bool(last) and last[-1].lower() in words


def _class_before(words: str) -> str:
    """The class before "such as": up to three words after the last stop word."""
    kept: list[str] = []
    for word in reversed(words.split()):
        if word in _STOP or len(kept) == 3:
            break
        kept.insert(0, word)
    return _as_class(kept)


def _class_after(words: str) -> str:
    """The class after "is a": the words up to the first stop word."""
    kept: list[str] = []
    for word in words.split():
        if word in ("and", "or", "but"):  # "a great and good land": the noun may be cut off
            return ""
        if word in _STOP or (kept and word.endswith("ing")):
            break
        kept.append(word)
    return _as_class(kept)


def _as_class(words: list[str]) -> str:
    good = 1 <= len(words) <= 3 and words[-1] not in _NO_CLASS
    return " ".join(words) if good and not words[-1].endswith(("ed", "ly")) else ""
