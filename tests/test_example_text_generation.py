"""examples/04_text_generation.py runs, and measures both models on the same tokens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "04_text_generation.py"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_measures_writes_and_draws(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path)]
    command += ["--pictures", str(tmp_path / "pictures")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    found = re.findall(
        r"(5-gram, Kneser-Ney|llama-1m, from scratch) +([\d.]+) \([\d.]+ to [\d.]+\) +([\d.]+) ",
        result.stdout,
    )
    perplexities = {name: float(value) for name, value, _ in found}
    assert len(perplexities) == 2
    assert all(1 < value < 512 for value in perplexities.values())  # of 512 tokens
    bits = {name: float(value) for name, _, value in found}
    assert all(0.5 < value < 5 for value in bits.values())
    assert (tmp_path / "pictures" / "text_generation.png").stat().st_size > 5000
