"""What the Makefile's targets do to files."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_clean_leaves_what_a_user_trained(tmp_path):
    mine = [tmp_path / name for name in ("runs/mine/model", "saved_models/mine/1", "data")]
    made = [tmp_path / name for name in (".venv/bin", "runs/quickstart/run", "build")]
    for folder in (*mine, *made):
        folder.mkdir(parents=True)
    shutil.copy(MAKEFILE, tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert all(folder.exists() for folder in mine)
    assert not any(folder.exists() for folder in made)
