"""examples/09_embedding.py: functions found by their descriptions, compared with TF-IDF."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "09_embedding.py"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_finds_functions(minilm_folder, tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    number = r"([\d.]+) \[[\d.]+, [\d.]+\]"
    rows = re.findall(rf"^(.+?) {{2,}}{number} +{number}$", result.stdout, re.M)
    recalls = {name: float(recall) for name, recall, _ in rows}
    assert list(recalls) == ["TF-IDF cosine", "MiniLM as it comes", "MiniLM, fine-tuned"]
    assert recalls["MiniLM as it comes"] > 0.6
    assert (tmp_path / "out" / "09_embedding.png").stat().st_size > 5_000
    assert len(re.findall(r"^  def ", result.stdout, re.M)) == 3
