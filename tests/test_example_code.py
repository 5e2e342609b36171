"""examples/11_code.py and 12_text_mining.py run, measure and draw."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / name), "--quick", "--out", str(tmp_path / "out")]
    command += ["--pictures", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.exhaustive
def test_code_is_measured_and_filled_in(tmp_path):
    said = run("11_code.py", tmp_path)
    found = re.findall(r"(5-gram, Kneser-Ney|llama-1m, from scratch) +([\d.]+) \(", said)
    assert len(found) == 2 and all(1 < float(bits) < 6 for _, bits in found)
    assert said.count(" >  ") >= 3
    assert (tmp_path / "code.png").stat().st_size > 3000


def test_addresses_are_mined(tmp_path):
    said = run("12_text_mining.py", tmp_path)
    assert "Democrats ~ Republicans" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"graph.json", "graph.graphml"}
    assert (tmp_path / "knowledge_graph.png").stat().st_size > 10_000
