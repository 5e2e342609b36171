"""Small corpora that several tests use."""

import random

import pytest

from tfllm.config import PrepareConfig
from tfllm.data import PreparedData, prepare

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "quickly",
    "ünïcode",
    "猫",
    "🙂",
    "42",
    "x=1;",
    "and",
]


def make_documents(count: int, seed: int = 0, longest: int = 120) -> list[str]:
    """Documents that all differ, of 3 to `longest` words."""
    draw = random.Random(seed)
    return [
        " ".join([f"{i}:", *draw.choices(WORDS, k=draw.randint(3, longest))]) for i in range(count)
    ]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_documents(40)


@pytest.fixture(scope="session")
def prepared(texts, tmp_path_factory) -> PreparedData:
    """40 documents in several shards, a fifth of them for validation."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, text in enumerate(texts):
        (folder / f"{i:03d}.txt").write_text(text, encoding="utf-8")
    config = PrepareConfig(
        vocab_size=300, validation_fraction=0.2, shard_tokens=700, num_processes=1
    )
    return prepare(folder, folder / "out", config, show_progress=False)
