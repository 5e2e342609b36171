import json
import shutil
from pathlib import Path

import pytest

REFERENCES = Path(__file__).parent / "references"
RECORDED = ("reference.npz",)
RECORDED_SMOLLM2 = Path(__file__).parent / "smollm2_reference.npz"


@pytest.fixture
def folder_of(tmp_path):
    """A copy of a recorded model folder, some keys of its config.json changed."""

    def copy(name, **changes):
        folder = tmp_path / "model"
        shutil.copytree(REFERENCES / name, folder, ignore=shutil.ignore_patterns(*RECORDED))
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config[key] = value
            if value is KeyError:
                del config[key]
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy
