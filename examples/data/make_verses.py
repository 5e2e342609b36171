"""Make verses.csv.gz from two Bibles in the public domain, English (2020) and Spanish (1909).

    apt-get download sword-text-web sword-text-sparv
    for deb in *.deb; do dpkg-deb -x $deb unpacked; done
    pip install pysword==0.2.8
    python make_verses.py unpacked/usr/share/sword

The same input gives the same text; the bytes of the gzip file also depend on the zlib in use.
"""

import argparse
import csv
import gzip
import hashlib
import html
import io
import re
from pathlib import Path

from pysword.modules import SwordModules

ENGLISH, SPANISH = "engWEB2015eb", "spaRV1909eb"
MOST_WORDS = 30
CLEANING = [
    # Not part of the verse's own text: footnotes, headings, titles of psalms.
    (r"<note.*?</note>", " "),
    (r"<title.*?</title>", " "),
    (r"<[^>]*>", lambda tag: " " if re.match(r"</?(l|lg|div|p|lb)\b", tag[0]) else ""),
    (r"\s+", " "),
    (r" ([,.;:?!])", r"\1"),
    (r"^[A-Z]+\. ", ""),  # the Hebrew letter above a part of a psalm
    (
        r"\b([A-ZÁÉÍÓÚÑ])([A-ZÁÉÍÓÚÑ]+)\b",
        lambda word: word[1] + word[2].lower(),
    ),  # a chapter's first
]


def clean(text: str) -> str:
    # A footnote replaces the space after the word that it belongs to.
    for pattern, replacement in CLEANING:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return html.unescape(text).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="usr/share/sword of the unpacked packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("verses.csv.gz"))
    arguments = parser.parse_args()
    modules = SwordModules(str(arguments.folder))
    modules.parse_modules()
    english, spanish = (modules.get_bible_from_module(name) for name in (ENGLISH, SPANISH))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["chapter", "english", "spanish"])
    total = kept = 0
    for books in spanish.get_structure().get_books().values():
        for book in books:
            for chapter, num_verses in enumerate(book.chapter_lengths, 1):
                for verse in range(1, num_verses + 1):
                    place = {"books": [book.name], "chapters": [chapter], "verses": [verse]}
                    pair = []
                    for bible in (english, spanish):
                        try:
                            pair.append(clean(bible.get(**place, clean=False)))
                        except ValueError:  # numbered differently there
                            pair.append("")
                    if not all(pair):
                        continue
                    total += 1
                    if max(len(side.split()) for side in pair) <= MOST_WORDS:
                        kept += 1
                        writer.writerow([f"{book.name} {chapter}", *pair])
    content = text.getvalue().encode()
    arguments.out.write_bytes(gzip.compress(content, 9, mtime=0))
    packed = arguments.out.read_bytes()
    print(f"{kept:,} of {total:,} verses, those of at most {MOST_WORDS} words")
    print(f"uncompressed: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    print(f"gzip: {len(packed):,} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
