"""Text mining: build a knowledge graph from documents, without training.

It uses statistics over all documents (which words are capitalized elsewhere, how often two names
occur together, which form of a name is the usual one). Therefore it is not a function of a single
text, and cannot be served, except for the tagger; the graph is written to a file.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from tfllm.text_mining.knowledge_graph import (
    NEAR,
    Entity,
    KnowledgeGraph,
    Relation,
    Sentence,
    from_parts,
)
from tfllm.text_mining.name_finding import TITLES, Name, NameFinder, sentences
from tfllm.text_mining.relation_patterns import stated

_ACRONYM = re.compile(r"\(([A-Z]{2,6})\)")


class Tagger(Protocol):
    """A model that finds entities, such as the text model of the task tagging."""

    def tag(self, texts: Sequence[str]) -> Sequence[Sequence[Mapping[str, Any]]]:
        """The spans in each text: `begin` and `end` in characters, and a `label`."""


def mine(
    documents: Iterable[str],
    *,
    tagger: Tagger | None = None,
    min_count: int = 5,
    min_together: int = 3,
    min_log_likelihood: float = 10.83,
    max_evidence: int = 3,
) -> KnowledgeGraph:
    """Build a knowledge graph of the entities in documents and their relations.

    Entities are the spans of the tagger; without a tagger, names found by the rules of
    `name_finding`, which are for English. Forms of one name are merged: those that differ only in
    case; an acronym in brackets and the words before it; and a single word that mostly follows a
    title ("President Truman") and the only longer name that ends in it ("Harry Truman").

    Two entities are `near` if they occur in the same sentences more often than by chance, by the
    log-likelihood ratio of the counts of sentences (Dunning, 1993). Relations that a sentence
    states in words are found by `relation_patterns`. Each relation has sentences as evidence.

    Args:
        documents: texts.
        tagger: model that finds the entities.
        min_count: minimum number of mentions of an entity; one in a stated relation needs only one.
            Defaults to 5.
        min_together: minimum number of common sentences of two `near` entities. Defaults to 3.
        min_log_likelihood: minimum log-likelihood ratio of two `near` entities. The default, 10.83,
            occurs by chance in one of a thousand pairs, of which there are many: raise it for fewer
            and more reliable relations.
        max_evidence: maximum number of sentences kept per relation. Defaults to 3.

    Returns:
        The graph.

    Raises:
        ValueError: a setting is out of range, or a document is not a text.
    """
    settings = {"min_count": min_count, "min_together": min_together, "max_evidence": max_evidence}
    for setting, value in settings.items():
        if value < 1:
            raise ValueError(f"{setting} must be at least 1; received {value}")
    if not min_log_likelihood >= 0:
        raise ValueError(f"min_log_likelihood must be at least 0; received {min_log_likelihood}")
    found: list[Sentence] = []
    for number, document in enumerate(documents):
        if not isinstance(document, str):
            raise ValueError(
                f"documents must be texts; document {number + 1} is of the type "
                f"{type(document).__name__}"
            )
        found += sentences(document, number)
    mentions, kinds = _mentions(found, tagger)
    usual, variants = _merged(found, mentions)
    keys = [[usual[_key(name.text)] for name in names] for names in mentions]

    counts = Counter(key for of_sentence in keys for key in of_sentence)
    facts: dict[tuple[str, str, str], list[Sentence]] = defaultdict(list)
    classes: Counter[str] = Counter()
    for sentence, names, of_sentence in zip(found, mentions, keys, strict=True):
        for source, relation, target in set(stated(sentence.text, names)):
            ends = [end if isinstance(end, str) else of_sentence[end] for end in (source, target)]
            if ends[0] != ends[1]:
                facts[ends[0], relation, ends[1]].append(sentence)
                classes.update({end for end in (source, target) if isinstance(end, str)})
    relations = [
        Relation(source, name, target, len(said), tuple(said[:max_evidence]))
        for (source, name, target), said in facts.items()
    ]
    frequent = {key for key, count in counts.items() if count >= min_count}
    relations += _near(
        [(s, set(of) & frequent) for s, of in zip(found, keys, strict=True)],
        min_together, min_log_likelihood, max_evidence,
    )  # fmt: skip
    wanted = frequent | {end for r in relations for end in (r.source, r.target)}
    entities = [
        Entity(key, kinds.get(key) or _kind(variants[key], kinds), counts[key], _others(key, of))
        for key, of in variants.items()
        if key in wanted
    ]
    entities += [
        Entity(name, "class", count)
        for name, count in classes.items()
        if name in wanted and name not in variants
    ]
    return from_parts(entities, relations)


def _mentions(
    found: Sequence[Sentence], tagger: Tagger | None
) -> tuple[list[list[Name]], dict[str, str]]:
    """The names in each sentence, and the most frequent label of each form from the tagger."""
    if tagger is None:
        finder = NameFinder(found)
        return [finder.names(sentence.text) for sentence in found], {}
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    mentions = []
    for sentence, spans in zip(found, tagger.tag([s.text for s in found]), strict=True):
        names = []
        for span in sorted(spans, key=lambda span: span["begin"]):
            text = sentence.text[span["begin"] : span["end"]]
            names.append(Name(span["begin"], span["end"], text))
            labels[text][span["label"]] += 1
        mentions.append(names)
    return mentions, {form: of.most_common(1)[0][0] for form, of in labels.items()}


def _kind(forms: Counter[str], kinds: Mapping[str, str]) -> str:
    return next((kinds[form] for form, _ in forms.most_common() if form in kinds), "name")


def _key(form: str) -> str:
    return form.lower().removeprefix("the ")


def _merged(
    found: Sequence[Sentence], mentions: Sequence[Sequence[Name]]
) -> tuple[dict[str, str], dict[str, Counter[str]]]:
    """Merge forms: maps each form's key to the usual name, and the latter to counts of forms."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    titled: Counter[str] = Counter()
    stands_for: dict[str, str] = {}
    for sentence, names in zip(found, mentions, strict=True):
        for i, name in enumerate(names):
            key = _key(name.text)
            forms[key][name.text] += 1
            before = sentence.text[: name.begin].split()
            if before and before[-1] in TITLES and " " not in name.text:
                titled[key] += 1
            acronym = _ACRONYM.match(sentence.text[name.end :].lstrip())
            if acronym and i + 1 < len(names) and _initials(name.text) == acronym[1]:
                stands_for[_key(acronym[1])] = key
    by_last: dict[str, list[str]] = defaultdict(list)
    for key in forms:
        words = key.split()
        if 2 <= len(words) <= 3 and "of" not in words:
            by_last[words[-1]].append(key)
    for key in titled:
        if len(by_last[key]) == 1 and 2 * titled[key] > sum(forms[key].values()):
            stands_for.setdefault(key, by_last[key][0])
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for key, counted in forms.items():
        together[stands_for.get(key, key)].update(counted)
    usual: dict[str, str] = {}
    variants: dict[str, Counter[str]] = {}
    for key, counted in together.items():
        own = forms[key] or counted
        usual[key] = max(own, key=lambda form, own=own: (own[form], form))  # type: ignore[misc]
        variants[usual[key]] = counted
    for key in forms:
        usual[key] = usual[stands_for.get(key, key)]
    return usual, variants


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split() if word[0].isupper())


def _others(usual: str, forms: Counter[str]) -> tuple[str, ...]:
    return tuple(form for form, _ in forms.most_common() if form != usual)


# ------------------------------------------------------------------ co-occurrence


def _near(
    found: Sequence[tuple[Sentence, set[str]]], min_together: int, least: float, max_evidence: int
) -> Iterator[Relation]:
    single: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    evidence: dict[tuple[str, str], list[Sentence]] = defaultdict(list)
    for sentence, names in found:
        ordered = sorted(names)
        single.update(ordered)
        for i, one in enumerate(ordered):
            for other in ordered[i + 1 :]:
                both[one, other] += 1
                if len(evidence[one, other]) < max_evidence:
                    evidence[one, other].append(sentence)
    for (one, other), count in both.items():
        if count < min_together:
            continue
        ratio = log_likelihood_ratio(count, single[one], single[other], len(found))
        bits = math.log2(count * len(found) / (single[one] * single[other]))
        if ratio >= least and bits > 0:
            yield Relation(one, NEAR, other, count, tuple(evidence[one, other]), ratio, bits)


def log_likelihood_ratio(both: int, first: int, second: int, total: int) -> float:
    """Log-likelihood ratio of the dependence of two events: Dunning's G² of their counts.

    Args:
        both: number of cases in which both occur.
        first: number of cases in which the first occurs, with or without the second.
        second: number of cases in which the second occurs.
        total: number of all cases.

    Returns:
        0 if they are independent; larger values for stronger evidence of dependence. For
        independent events, it is chi-square distributed with one degree of freedom.
    """
    table = [[both, first - both], [second - both, total - first - second + both]]
    rows, columns = (
        [sum(row) for row in table],
        [sum(column) for column in zip(*table, strict=True)],
    )
    return 2 * sum(
        count * math.log(count * total / (rows[i] * columns[j]))
        for i, row in enumerate(table)
        for j, count in enumerate(row)
        if count
    )
