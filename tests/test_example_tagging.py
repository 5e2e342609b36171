"""examples/08_tagging.py: names in documentation, compared with a baseline."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.baselines.frequent_tags import FrequentTags

EXAMPLE = Path(__file__).parents[1] / "examples" / "08_tagging.py"


def test_the_baseline_tags_by_heart():
    records = [
        {"text": "New York, so new", "spans": [{"begin": 0, "end": 8, "label": "PLACE"}]},
        {"text": "York so", "spans": [{"begin": 0, "end": 4, "label": "NAME"}]},
        {"text": "York so", "spans": [{"begin": 0, "end": 4, "label": "NAME"}]},
        {"text": "New York", "spans": [{"begin": 0, "end": 8, "label": "PLACE"}]},
        {"text": "New York", "spans": [{"begin": 0, "end": 8, "label": "PLACE"}]},
    ]
    (found,) = FrequentTags(records).predict([{"text": "so York, new New York unseen"}])
    places = [(s["begin"], s["end"], s["label"]) for s in found["spans"]]
    assert places == [(3, 7, "PLACE"), (13, 21, "PLACE")]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_learns_and_measures(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = re.findall(r"^(\S.+)\n  span F1 +([\d.]+) \[([\d.]+), ([\d.]+)\]", result.stdout, re.M)
    assert [row[0] for row in rows] == ["most frequent tag of each word", "bert-tiny from scratch"]
    assert 0.02 < float(rows[0][1]) < 0.6
    answers = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == 100
