"""Convert spans of characters to token labels: B- for the first word of a span, I- for others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tfllm.tasks.encoder.unknown_labels import label_index

OUTSIDE = "O"
_NAMES = {
    "begin": ("begin", "start", "start_offset"),
    "end": ("end", "end_offset"),
    "label": ("label", "type", "entity", "tag"),
}


class Span(NamedTuple):
    """Characters `begin` to `end` (exclusive) of a text, and their label."""

    begin: int
    end: int
    label: str


def read_spans(value: Any, text: str) -> list[Span]:
    """Read the spans of a record, in the order of the text.

    Args:
        value: list of objects with `begin` (or `start`), `end` and `label` (or `type`), or of
            [begin, end, label].
        text: text of the record.

    Raises:
        ValueError: the value has another form, or a span is outside the text, is empty, begins or
            ends with white space, or overlaps another one.
    """
    if not isinstance(value, list):
        raise ValueError(f"'spans' must be a list of spans; received {value!r:.80}")
    spans = sorted(_span(item) for item in value)
    for span in spans:
        if not 0 <= span.begin < span.end <= len(text):
            raise ValueError(
                f"a span must lie within its text, which has {len(text)} characters; received "
                f"{span.begin} to {span.end} ({span.label})"
            )
        inside = text[span.begin : span.end]
        if inside != inside.strip():
            raise ValueError(
                f"a span must not begin or end with space; received {span.begin} to {span.end} "
                f"({span.label}): {inside!r:.80}"
            )
    for one, other in pairwise(spans):
        if other.begin < one.end:
            raise ValueError(
                "spans must not overlap; received "
                f"{one.begin} to {one.end} ({one.label}: {text[one.begin : one.end]!r:.60}) and "
                f"{other.begin} to {other.end} ({other.label}: "
                f"{text[other.begin : other.end]!r:.60})"
            )
    return spans


def _span(item: Any) -> Span:
    given: tuple[Any, ...]
    if isinstance(item, dict):
        found = {
            field: next((item[name] for name in names if name in item), None)
            for field, names in _NAMES.items()
        }
        given = (found["begin"], found["end"], found["label"])
    else:
        given = tuple(item) if isinstance(item, list | tuple) and len(item) == 3 else (None,) * 3
    begin, end, label = given
    whole = all(isinstance(x, int) and not isinstance(x, bool) for x in (begin, end))
    if not whole or not isinstance(label, str) or not label.strip():
        raise ValueError(
            "a span must have begin and end, which are positions of characters, and a label; "
            f"received {item!r:.100}"
        )
    return Span(begin, end, label.strip())


def tags_of(labels: Iterable[str]) -> list[str]:
    """The tags of a token: O, then B- and I- for each label."""
    return [OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def token_tags(
    text: str,
    spans: Sequence[Span],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    continuing: Collection[int],
    labels: Sequence[str],
) -> list[int]:
    """The index of each token's tag in `tags_of(labels)`; -1 for tokens that continue a word.

    Args:
        text: the text, for errors.
        spans: its spans in order.
        ids: ids of its tokens.
        offsets: first and last character (exclusive) of each token.
        continuing: ids of tokens that continue a word.
        labels: labels of spans.

    Raises:
        ValueError: a span has no token, does not begin and end at words, or has a label that is not
            in `labels`.
    """
    tags = [-1 if id_ in continuing else 0 for id_ in ids]
    begins, ends = [begin for begin, _ in offsets], [end for _, end in offsets]
    for span in spans:
        tag = 1 + 2 * label_index(span.label, labels)
        first, last = bisect_right(ends, span.begin), bisect_left(begins, span.end)
        named = f"{span.begin} to {span.end} ({span.label}: {text[span.begin : span.end]!r:.60})"
        if first >= last:
            raise ValueError(f"there is no word in the span {named}")
        after = last < len(ids) and tags[last] < 0
        if begins[first] < span.begin or ends[last - 1] > span.end or tags[first] < 0 or after:
            word_begin = first
            while tags[word_begin] < 0:
                word_begin -= 1
            word_end = last
            while word_end < len(ids) and tags[word_end] < 0:
                word_end += 1
            raise ValueError(
                f"a span must begin and end where words do; received {named}, but the words are "
                f"{text[begins[word_begin] : ends[word_end - 1]]!r:.80}"
            )
        for token in range(first, last):
            if tags[token] >= 0:
                tags[token] = tag if token == first else tag + 1
    return tags
