"""Make python_docs.jsonl.gz: paragraphs of Python's documentation with the names marked in them.

Its sources mark every name by its kind: :class:`dict`, :func:`open`, :mod:`os.path`. The marks
    become
spans, and are removed from the text.

Usage:
    apt-get download python3.11-doc && dpkg -x python3.11-doc_*.deb docs
    python examples/data/make_python_docs.py docs/usr/share/doc/python3.11/html/_sources \
        examples/data/python_docs.jsonl.gz
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = ("library", "howto", "tutorial", "reference", "faq")
LABELS = {
    "class": "class",
    "func": "function",
    "meth": "method",
    "mod": "module",
    "exc": "exception",
    "attr": "attribute",
    "const": "constant",
    "data": "constant",
}
SHORTEST, LONGEST = 40, 1200
"""minimum and maximum number of characters of a paragraph"""
MARK = re.compile(
    r":(?P<role>[a-z:+]+):`(?P<of_role>[^`]+)`"
    r"|``(?P<literal>.+?)``"
    r"|`(?P<link>[^`<]+?)\s*(<[^`]*>)?`__?"
    r"|\*\*(?P<strong>[^*\s][^*]*)\*\*"
    r"|(?<![\w*])\*(?P<emphasis>[^*\s][^*]*)\*"
    r"|\s?\[(\d+|\#\w*)\]_"
)
STRAY = re.compile(r"`|\||\\|::|:[a-z]+:|\.\. |__?\b\s*$|\*\*")


def paragraphs(text: str) -> Iterator[str]:
    """Running text, without titles, directives, code and tables."""
    after_colons, depth = False, 0
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        if after_colons and indent > depth:
            continue  # a block of code
        stripped = textwrap.dedent(block).strip()
        depth, after_colons = indent, stripped.endswith("::")
        if stripped.startswith(".. "):
            after_colons = stripped.startswith((".. code", ".. doctest", ".. highlight", ".. prod"))
            continue
        if re.search(r"(?m)^\s*(>>>|\.\.\. |[=\-~^\"*+#]{4,}|\+-|\||:[a-z ]+: |\.\. )", block):
            continue
        stripped = re.sub(r"^([*\-]|#\.|\d+\.)\s+", "", stripped)
        yield re.sub(r"\s+", " ", stripped.removesuffix("::") + ":" * stripped.endswith("::"))


def record(paragraph: str) -> dict[str, Any] | None:
    """The text and its spans; None if it has none, or has unsupported markup."""
    text, done = "", 0
    spans: list[dict[str, Any]] = []
    for match in MARK.finditer(paragraph):
        text += paragraph[done : match.start()]
        done = match.end()
        if match["role"] is None:
            kept = (match[n] for n in ("literal", "link", "strong", "emphasis"))
            text += next((inner for inner in kept if inner), "")
            continue
        inner = re.sub(r"\s*<[^<>]*>$", "", match["of_role"]).lstrip("!")
        if inner.startswith("~"):
            inner = inner[1:].rpartition(".")[2]
        label = LABELS.get(match["role"].rpartition(":")[2])
        name = inner.removesuffix("()")
        if label and re.fullmatch(r"[\w.]+", name) and name.strip("."):
            name = name.strip(".")
            spans.append({"begin": len(text), "end": len(text) + len(name), "label": label})
            inner = name
        text += inner
    text += paragraph[done:]
    if not spans or not SHORTEST <= len(text) <= LONGEST or STRAY.search(text):
        return None
    for span in spans:
        around = text[max(span["begin"] - 1, 0) : span["begin"]] + text[span["end"] :][:1]
        if re.search(r"\w", around):
            return None
    return {"text": text, "spans": spans}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, help="the folder _sources of the documentation")
    parser.add_argument("out", type=Path, help="a name that ends in .jsonl.gz")
    options = parser.parse_args()
    seen: set[str] = set()
    lines = []
    labels: Counter[str] = Counter()
    for part in PARTS:
        for file in sorted((options.sources / part).rglob("*.rst.txt")):
            page = f"{part}/{file.name.removesuffix('.rst.txt')}"
            for paragraph in paragraphs(file.read_text(encoding="utf-8")):
                found = record(paragraph)
                if found is None or found["text"] in seen:
                    continue
                seen.add(found["text"])
                labels.update(span["label"] for span in found["spans"])
                lines.append(json.dumps({**found, "page": page}, ensure_ascii=False) + "\n")
    data = "".join(lines).encode()
    with open(options.out, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as file:
        file.write(data)
    packed = options.out.read_bytes()
    print(f"{len(lines):,} paragraphs, {sum(labels.values()):,} spans: {dict(labels)}")
    print(f"uncompressed {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    print(f"compressed {len(packed):,} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
