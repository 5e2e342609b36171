"""examples/03_classification.py: spam or not, compared with a baseline."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "03_classification.py"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_learns_measures_and_draws(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = re.findall(r"^(\S.+)\n  accuracy +([\d.]+) \[([\d.]+), ([\d.]+)\]", result.stdout, re.M)
    assert [row[0] for row in rows] == ["TF-IDF, logistic regression", "bert-tiny from scratch"]
    for _, *numbers in rows:
        value, low, high = map(float, numbers)
        assert 0.3 < low <= value <= high < 1
    for name in ("03_classification.png", "03_confusion_matrix.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5_000
    answers = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == 120
    assert re.search(r"click here now!': (ham|spam) \([\d.]+%\)", result.stdout)
