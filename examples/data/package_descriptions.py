"""Texts with summaries that people wrote: the descriptions of Debian's packages.

Each package has a long description, and a synopsis of at most 80 characters that says the same.
Their licences are those of the packages, which differ, so they are not distributed here: `download`
gets the archive's lists with apt (on Debian, Ubuntu and similar systems; it needs no root and
changes nothing on the system), and `read_descriptions` also takes files that you have.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MOST_WORDS = 60
"""maximum number of words of a text; the median is 43, and later text adds little to a synopsis"""
FEWEST_WORDS = 8
RUN = 8
"""number of consecutive words that two texts must share to count as copies"""
MOST_COPIED = 0.2
"""maximum share of a held-out text's runs that may occur in training texts"""
INSTALLED = Path("/var/lib/dpkg/status")
"""the packages of this computer: a few hundred descriptions without a network"""
ASK_FOR_FILES = (
    "apt is not available to download package descriptions: get Translation-en.xz (in "
    "dists/bookworm/main/i18n) and Packages.xz (in dists/bookworm/main/binary-amd64) from a "
    "Debian mirror, and give both with --descriptions"
)
_OPENERS = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_FIELDS = ("Package", "Source", "Description", "Description-en")
_TRANSITION = re.compile(r"\b(transitional|dummy|metapackage)\b", re.IGNORECASE)


def download(folder: Path) -> list[Path]:
    """Download apt's lists of packages and of English descriptions to a separate folder.

    Raises:
        RuntimeError: If there is no apt, or it downloaded no descriptions.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(ASK_FOR_FILES)
    folder = folder.resolve()
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",
    }
    command = ["apt-get", "update"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    paths = sorted((folder / "lists").glob("*_Packages"))
    descriptions = sorted((folder / "lists").glob("*_Translation-en"))
    if not descriptions:
        raise RuntimeError(
            f"apt-get update must download a list Translation-en, but did not; its output:\n"
            f"{(result.stdout + result.stderr).strip()[-1000:]}\nWithout: {ASK_FOR_FILES}"
        )
    return paths + descriptions


def stanzas(path: Path) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file, compressed or not, with the fields that are needed."""
    with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", errors="replace") as file:
        found: dict[str, str] = {}
        name = ""
        for line in file:
            if not line.strip():
                if found:
                    yield found
                found, name = {}, ""
            elif line[0] in " \t":
                if name:
                    found[name] += "\n" + line[1:].rstrip("\n")
            else:
                field, _, value = line.partition(":")
                name = field if field in _FIELDS else ""
                if name:
                    found[name] = value.strip()
        if found:
            yield found


def read_descriptions(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Read `package`, `source` (the source package), `text` and `summary`, each text once.

    The text is the first `MOST_WORDS` words of the long description, without line breaks. Texts
    with fewer than `FEWEST_WORDS` words, and packages that only refer to others, are left out.

    Args:
        paths: Translation-en and Packages of an archive, or dpkg's status, compressed or not.

    Raises:
        ValueError: If no file has a long description.
    """
    paths = list(paths)
    sources: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    for path in paths:
        for stanza in stanzas(path):
            package = stanza.get("Package", "")
            if "Source" in stanza:
                sources[package] = stanza["Source"].split()[0]
            description = stanza.get("Description-en") or stanza.get("Description", "")
            if "\n" in description:
                descriptions.setdefault(package, description)
    if not descriptions:
        raise ValueError(
            "the files must contain long descriptions, as Translation-en does; received "
            f"{', '.join(map(str, paths)) or 'no file'}"
        )
    records: dict[str, dict[str, str]] = {}
    for package, description in sorted(descriptions.items()):
        synopsis, _, rest = description.partition("\n")
        summary = " ".join(synopsis.split())
        # A paragraph ends with a line that only has a full stop.
        words = " ".join(line for line in rest.split("\n") if line.strip() != ".").split()
        text = " ".join(words[:MOST_WORDS])
        if len(words) >= FEWEST_WORDS and summary and not _TRANSITION.search(summary):
            source = sources.get(package, package)
            record = {"package": package, "source": source, "text": text, "summary": summary}
            records.setdefault(text, record)
    return list(records.values())


def split(
    records: Sequence[dict[str, str]], one_in: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Split records into training records, and held-out ones that are not copies of them.

    1. One in `one_in` source packages is held out with all its packages, by a hash of its name.
    2. Only one package of a held-out source is kept, the first by name: its packages say the same.
    3. Sources are copied, too (gcc-11, gcc-12). So a held-out record is dropped if its summary is
       the same as that of a training record, or if more than `MOST_COPIED` of its text's runs of
       `RUN` words occur in training texts. All numbers count as equal here.
    """

    def is_held(record: dict[str, str]) -> bool:
        return zlib.crc32(record["source"].encode()) % one_in == 0

    learned = [record for record in records if not is_held(record)]
    first: dict[str, dict[str, str]] = {}
    for record in records:
        if is_held(record):
            first.setdefault(record["source"], record)
    summaries = {_plain(record["summary"]) for record in learned}
    runs = {run for record in learned for run in _runs(record["text"])}
    held_out = []
    for record in first.values():
        own = _runs(record["text"])
        if _plain(record["summary"]) not in summaries and (
            sum(run in runs for run in own) <= MOST_COPIED * len(own)
        ):
            held_out.append(record)
    return learned, held_out


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", re.sub(r"\d+", "0", text.lower())))


def _runs(text: str) -> set[str]:
    words = _plain(text).split()
    return {" ".join(words[i : i + RUN]) for i in range(max(len(words) - RUN + 1, 1))}
