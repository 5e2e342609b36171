"""Tagged words, one per line, in the format of the CoNLL shared tasks.

A line contains a word and its tag (`B-PER`, `I-PER`, `O`), separated by tabs or spaces; of more
columns, the first and the last are used. A blank line ends a sentence; lines that begin with
-DOCSTART- are skipped. A sentence becomes a record `{"text", "spans"}`: its words separated by
single spaces, and a span for each entity, in characters of that text. An I- tag that does not
follow a B- or I- tag of the same label begins an entity, as in the older IOB format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfllm.data.reading.json_records import BadRecord, OnBad, check_characters

CONLL_SUFFIXES = (".conll", ".bio", ".iob")


def conll_records(
    lines: Iterable[str], path: Path, on_bad: OnBad
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) for each sentence.

    Args:
        lines: lines of the file.
        path: path of the file, for errors.
        on_bad: called with the error of each malformed sentence; raises it or returns.
    """
    words: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            words.append((number, line.rstrip("\r\n")))
        elif words:
            yield from _sentence(words, path, on_bad)
            words = []
    if words:
        yield from _sentence(words, path, on_bad)


def _sentence(
    lines: list[tuple[int, str]], path: Path, on_bad: OnBad
) -> Iterator[tuple[str, dict[str, Any]]]:
    tagged = [(number, line) for number, line in lines if not line.startswith("-DOCSTART-")]
    if not tagged:
        return
    text, spans = "", []
    label = ""  # label of the previous word
    try:
        for number, line in tagged:
            where = f"{path}, line {number}"
            fields = line.split("\t") if "\t" in line else line.split()
            if len(fields) < 2 or not fields[0].strip():
                raise BadRecord(where, f" must have a word and its tag; received {line!r}")
            word, tag = fields[0].strip(), fields[-1].strip()
            check_characters(word, where, "text")
            prefix, _, name = tag.partition("-")
            if tag != "O" and (prefix not in ("B", "I") or not name):
                raise BadRecord(where, f": a tag must be O, B-NAME or I-NAME; received {tag!r}")
            begin = len(text) + bool(text)
            text = f"{text} {word}" if text else word
            if tag == "O":
                label = ""
            elif prefix == "B" or name != label:
                spans.append({"begin": begin, "end": len(text), "label": name})
                label = name
            else:
                spans[-1]["end"] = len(text)
    except BadRecord as error:
        on_bad(error)
        return
    yield f"{path}, line {tagged[0][0]}", {"text": text, "spans": spans}
