"""Small corpora that several tests use."""

import pytest

from tests.data.chat_examples import chat_tokenizer, conversations, preferences, write_lines
from tests.data.documents import make_documents
from tfllm.config import PrepareConfig
from tfllm.data import PreparedData
from tfllm.tasks import prepare
from tfllm.tokenizers import BytePairTokenizer


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


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory):
    """The tokenizer of a chat model, in a folder."""
    folder = tmp_path_factory.mktemp("chat")
    chat_tokenizer().save(folder)
    return folder


@pytest.fixture(scope="session")
def chat(chat_folder) -> BytePairTokenizer:
    return BytePairTokenizer.load(chat_folder)


@pytest.fixture(scope="session")
def examples(chat_folder, tmp_path_factory) -> PreparedData:
    """120 conversations in several shards, a fifth of them for validation."""
    folder = tmp_path_factory.mktemp("examples")
    source = write_lines(folder / "a.jsonl", conversations(120))
    config = PrepareConfig(
        tokenizer=str(chat_folder), validation_fraction=0.2, shard_tokens=900, num_processes=1
    )
    return prepare(source, folder / "out", config, show_progress=False)


@pytest.fixture(scope="session")
def pairs(chat_folder, tmp_path_factory) -> PreparedData:
    """60 preferences in several shards, a fifth of them for validation."""
    folder = tmp_path_factory.mktemp("pairs")
    source = write_lines(folder / "a.jsonl", preferences(60))
    config = PrepareConfig(
        tokenizer=str(chat_folder), validation_fraction=0.2, shard_tokens=900, num_processes=1
    )
    return prepare(source, folder / "out", config, show_progress=False)


@pytest.fixture
def run(chat_folder, tmp_path):
    """Prepares files of examples with the chat tokenizer, in a folder of the test's own."""

    def run(source, out="out", **settings):
        settings = {"tokenizer": str(chat_folder), "num_processes": 1, **settings}
        overwrite, task = settings.pop("overwrite", False), settings.pop("task", None)
        return prepare(
            source,
            tmp_path / out,
            PrepareConfig(**settings),
            task=task,
            overwrite=overwrite,
            show_progress=False,
        )

    return run
