"""The quickstart, end to end, with few steps."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "examples/quickstart.py"


@pytest.mark.slow
def test_quickstart_ends_with_a_served_model_and_deletes_nothing_of_others(tmp_path):
    out, base = tmp_path / "out", tmp_path / "saved_models"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    command = [sys.executable, str(SCRIPT), "--steps", "20"]
    command += ["--out", str(out), "--saved-models", str(base)]
    for _ in range(2):  # the second one replaces the first
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        for word in (
            "parameters",
            "tokens/s",
            "validation perplexity",
            "of a unigram model",
            "sample",
            "go on with",
        ):
            assert word in done.stdout
        assert "Traceback" not in done.stderr and "UserWarning" not in done.stderr
        assert "oneDNN" not in done.stderr
        assert [p.name for p in base.joinpath("quickstart").iterdir()] == ["1"]
        assert (out / "run/model/model.safetensors").exists()
    assert (out / "thesis.txt").read_text() == "precious"
