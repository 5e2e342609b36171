"""What works after plain `pip install tfllm`; errors name the extra for the rest."""

import subprocess
import sys

import pytest

from tests.data.conftest import make_documents

EXTRAS = {
    "serve": ("grpc", "tensorflow_serving", "uvicorn"),
    "plot": ("matplotlib",),
    "tensorboard": ("tensorboard",),
    "parquet": ("pyarrow",),
    "evaluate": ("sacrebleu", "rouge_score"),
    "docs": ("mkdocs", "mkdocstrings"),
    "dev": ("pytest", "hypothesis", "yaml"),
}
WITHOUT_EXTRAS = f"""
import sys
for names in {list(EXTRAS.values())}:
    for name in names:
        sys.modules[name] = None  # an import of it fails, as where it is not installed
from tfllm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_training_and_export_need_no_extra(tmp_path):
    (tmp_path / "texts").mkdir()
    for i, text in enumerate(make_documents(20, seed=5, longest=60)):
        (tmp_path / f"texts/{i}.txt").write_text(text, encoding="utf-8")
    data, folder, base = (tmp_path / name for name in ("data", "run", "saved_models/mine"))
    size = ["num_layers=1", "embedding_dim=16", "num_heads=2", "num_kv_heads=1"]
    for command in (
        ["prepare", tmp_path / "texts", "--out", data, "--vocab-size", 300],
        ["train", *size, "--data", data, "--out", folder, "sequence_length=16", "steps=3"],
        ["evaluate", folder, "--data", data],
        ["generate", folder, "the cat", "--max-new-tokens", 2],
        ["export", folder, base],
        ["check", base],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    for command in (
        ["serve", base.parent, "--rest-port", 0, "--grpc-port", 0],
        ["query", "mine", "the cat", "--grpc"],
    ):
        done = run(*command)
        assert done.returncode == 1
        assert "pip install 'tfllm[serve]'" in done.stderr and "Traceback" not in done.stderr
