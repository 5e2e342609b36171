"""examples/10_transfer.py: what encoders know before the first label."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "10_transfer.py"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_compares_beginnings(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"pretrained on 146 mails, \d+ updates: accuracy 0\.\d+ \[", result.stdout)
    rows = re.findall(r"^(\D+?) {2,}(0\.\d+) \[0\.\d+, 0\.\d+\]$", result.stdout, re.M)
    assert [name for name, _ in rows] == [
        "pretrained here",
        "the small one from scratch",
        "TF-IDF, logistic regression",
    ]
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 5_000
