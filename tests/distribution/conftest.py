"""Text for runs in separate processes."""

from __future__ import annotations

import pytest

from tests.data.conftest import make_documents
from tfllm.config import PrepareConfig
from tfllm.tasks import prepare


@pytest.fixture(scope="package")
def prepared(tmp_path_factory):
    """A folder of prepared text whose epochs are a few dozen batches."""
    folder = tmp_path_factory.mktemp("text")
    for i, text in enumerate(make_documents(30, longest=200)):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    config = PrepareConfig(
        vocab_size=300, validation_fraction=0.1, num_processes=1, shard_tokens=2000
    )
    prepare(folder, folder / "out", config, show_progress=False)
    return folder / "out"
