r"""Make sentences for sentiment analysis: sentiment-train.csv and sentiment-test.csv.

The sentences are from film reviews, half of them positive (Pang and Lee, 2005), as distributed in
the tests of the Debian package python3-pattern. Their licence is not stated, so they are not part
of this
project: this script downloads them, on Debian and systems derived from it. Elsewhere, give the
package's file as --file.

    python make_sentences.py --out FOLDER
    python ../03_classification.py --train FOLDER/sentiment-train.csv \
        --test FOLDER/sentiment-test.csv --out runs/sentiment

Duplicate sentences are kept once. A random fifth is held out. The same input gives the same files.
"""

import argparse
import csv
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "python3-pattern"
NAME = "polarity-en-pang&lee2.csv"
LABELS = {"1": "positive", "-1": "negative"}


def download(folder: Path) -> Path:
    """Download the package, and return its file of sentences."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit(f"apt-get and dpkg-deb get {PACKAGE}; without them, give its {NAME} as --file")
    try:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        (package,) = folder.glob(f"{PACKAGE}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
        return next((folder / "unpacked").rglob(NAME))
    except (subprocess.CalledProcessError, StopIteration) as error:
        sys.exit(f"{PACKAGE} could not be downloaded ({error}): give its {NAME} as --file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help=f"{NAME}, instead of a download")
    parser.add_argument("--out", type=Path, default=Path("runs/sentences"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or download(Path(folder))
        with open(path, encoding="utf-8-sig", newline="") as file:
            found = {text.strip(): LABELS[label] for label, text in csv.reader(file)}
    rows = sorted(found.items())
    random.Random(0).shuffle(rows)
    held_out = len(rows) // 5
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", rows[held_out:]), ("test", rows[:held_out])):
        target = options.out / f"sentiment-{name}.csv"
        with open(target, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
        print(f"{target}: {len(part):,} sentences")


if __name__ == "__main__":
    main()
