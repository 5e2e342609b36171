"""examples/01_transformer.py runs, learns, and draws its picture."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "01_transformer.py"


@pytest.mark.slow
def test_the_example_learns_and_draws(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    picture = tmp_path / "attention.png"
    command = [sys.executable, str(EXAMPLE), "--epochs", "50", "--out", str(picture)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "The cat sat on ... -> The cat sat on the mat" in result.stdout
    image = matplotlib.imread(picture)
    assert image.shape[0] > 400 and image.shape[1] > 800
    assert len({tuple(pixel) for pixel in image[::7, ::7].reshape(-1, image.shape[2])}) > 10
