"""examples/05_translation.py: Bible verses, compared with a word table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.baselines.word_table import WordTable

EXAMPLE = Path(__file__).parents[1] / "examples" / "05_translation.py"


def test_the_baseline_learns_which_word_is_which():
    """From pairs alone: each of these words stands beside others."""
    sources = ["the house", "the book", "a house", "a book", "the green house"]
    targets = ["la casa", "el libro", "una casa", "un libro", "la casa verde"]
    table = WordTable(sources, targets, iterations=30)
    assert table.translate("green house.") == "Verde casa."
    assert table.translate("the book, unknown") == "La libro, unknown"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_learns_and_measures(tmp_path):
    """A few updates teach no translation: the table is far ahead."""
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    number = r"([\d.]+) \[([\d.]+), ([\d.]+)\]"
    rows = re.findall(rf"^(\S.*?) {{2,}}{number} +{number}$", result.stdout, re.M)
    assert [row[0] for row in rows] == ["word by word", "Transformer, beam 4"]
    for _, *numbers in rows:
        for value, low, high in (map(float, numbers[:3]), map(float, numbers[3:])):
            assert low <= value <= high
    (_, bleu, *_, chrf, _, _), (_, less_bleu, *_, less_chrf, _, _) = rows
    assert 2 < float(bleu) < 30 and 20 < float(chrf) < 60
    assert 0 <= float(less_bleu) < float(bleu) and 0 < float(less_chrf) < float(chrf)
    assert re.search(r"^BLEU: nrefs:1\|case:mixed", result.stdout, re.M)
    answers = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == int(re.search(r"([\d,]+) held out", result.stdout)[1])
    assert (tmp_path / "out" / "05_translation.png").stat().st_size > 5_000
    said = re.findall(r"^  Transformer:  (.*)  \(score -[\d.]+\)$", result.stdout, re.M)
    assert len(said) == 3
