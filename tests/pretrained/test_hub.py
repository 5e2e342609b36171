"""hf:// fetches the files that reading needs, for every kind of folder, from a local hub."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from tests.pretrained.loopback_hub import COMMIT, hub
from tests.pretrained.record_folders import FOLDERS, SENTENCES
from tests.rounding import assert_within, weight_rounding
from tfllm.pretrained import load_tokenizer
from tfllm.pretrained.hugging_face.hub import downloaded
from tfllm.tasks import load

HERE = Path(__file__).parent
TOKENIZERS = HERE.parent / "tokenizers" / "translation_tokenizers"
PAIRS = HERE / "encoder_decoder_references"
KINDS = {
    "language model": [FOLDERS / "generation"],
    "shards": [HERE / "references" / "llama_sharded"],
    "classifier": [HERE / "encoder_references" / "sequence"],
    "sentence vectors": [FOLDERS / "sentence"],
    "marian": [PAIRS / "marian", TOKENIZERS / "marian"],
    "t5": [PAIRS / "t5", TOKENIZERS / "t5"],
    "adapter": [HERE / "adapters" / "llama"],
}
"""folders that make up a repository of each kind"""
OTHERS = {
    *("pytorch_model.bin", "tf_model.h5", "model.onnx", "modeling_x.py", "tiny.gguf", "README.md"),
    *("onnx/config.json", "onnx/model.safetensors", "original/consolidated.safetensors"),
    *("consolidated.safetensors", "training_args.pt", "checkpoint-1/model.safetensors"),
}
"""what is never fetched: pickles, programs, and other formats of the same weights"""
MORE = {
    "language model": {
        *("special_tokens_map.json", "added_tokens.json", "tfllm.json"),
        "additional_chat_templates/tool_use.jinja",
    },
    "sentence vectors": {"special_tokens_map.json"},
}
"""what a folder may hold besides, with `{}` in it"""


def write(folder, name, content="{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder of a kind, in a repository of a hub that the library is pointed at."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    folder = tmp_path / "repository"

    def of(kind):
        for source in KINDS[kind]:
            shutil.copytree(
                source,
                folder,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("reference.npz", "*.txt~"),
            )
        for name in MORE.get(kind, ()):
            write(folder, name)
        wanted = files_of(folder)
        for name in OTHERS:
            write(folder, name)
        return folder, wanted

    with hub({"somebody/tiny": folder, "somebody/gated": "gated"}) as server:
        place = f"http://127.0.0.1:{server.server_port}"  # as HF_ENDPOINT says it to a new process
        monkeypatch.setattr(constants, "ENDPOINT", place)
        template = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        of.server = server
        yield of


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_a_folder_are_fetched_and_no_others(repository, kind):
    _, wanted = repository(kind)
    place = downloaded("somebody/tiny")
    assert place.name == COMMIT
    assert files_of(place) == wanted
    sent = list(repository.server.sent)  # of files alike, one
    assert set(sent) <= wanted and len(sent) == len(set(sent))
    downloaded("somebody/tiny@v1.0")
    assert repository.server.sent == sent  # from the cache


def test_a_model_of_the_hub_is_that_of_its_folder(repository):
    folder, _ = repository("sentence vectors")
    (folder / "special_tokens_map.json").unlink()
    vectors = np.load(FOLDERS / "vectors.npz")["sentence"]
    task = load("hf://somebody/tiny")
    bound = weight_rounding(task.model, lambda: task.embed(SENTENCES))
    assert_within(task.embed(SENTENCES), vectors, bound)
    assert load_tokenizer("hf://somebody/tiny").end_token == "[SEP]"


def test_what_is_not_there_or_not_for_everyone_is_told(repository):
    repository("classifier")
    with pytest.raises(FileNotFoundError, match=r"accepted its terms: .*`hf auth login`"):
        downloaded("somebody/gated")
    for name in ("somebody/none", "somebody/tiny@v2", "somebody/tiny/none.gguf"):
        with pytest.raises(FileNotFoundError, match=rf"the Hugging Face Hub has no {name}"):
            downloaded(name)
    assert downloaded("somebody/tiny/tiny.gguf").read_text() == "{}"
