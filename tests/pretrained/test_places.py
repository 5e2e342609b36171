"""The names and paths that a model can be loaded by, and places without a model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.pretrained.conftest import REFERENCES
from tests.pretrained.gguf_files import write_gguf
from tests.rounding import assert_within, weight_rounding
from tfllm import pretrained
from tfllm.pretrained.model_folder import model_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of `huggingface_hub` with one model, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    repository = tmp_path / "hub" / "models--somebody--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(REFERENCES / "llama_tied", snapshot)
    write_gguf(REFERENCES / "llama_tied", snapshot / "tiny.gguf")
    (repository / "refs").mkdir()
    for name in ("main", "v1.0"):
        (repository / "refs" / name).write_text(COMMIT)
    return repository


def same_logits(path):
    reference = np.load(REFERENCES / "llama_tied" / "reference.npz")
    model = pretrained.load(path).model
    bound = weight_rounding(model, lambda: model(reference["token_ids"]))
    assert_within(model(reference["token_ids"]), reference["logits"], bound)


def test_a_model_of_the_hub_is_read_from_the_cache(cache):
    snapshot = cache / "snapshots" / COMMIT
    assert model_folder("hf://somebody/tiny") == snapshot
    assert model_folder("hf://somebody/tiny@v1.0") == snapshot
    assert model_folder(f"hf://somebody/tiny@{COMMIT}") == snapshot
    assert model_folder("hf://somebody/tiny/tiny.gguf") == snapshot / "tiny.gguf"
    assert model_folder("hf://somebody/tiny@v1.0/tiny.gguf") == snapshot / "tiny.gguf"
    assert model_folder(Path("hf://somebody/tiny")) == snapshot
    same_logits("hf://somebody/tiny")
    same_logits("hf://somebody/tiny/tiny.gguf")


@pytest.mark.parametrize(
    "name", ["hf://somebody/other", "hf://somebody/tiny@v2", "hf://somebody/tiny/q4.gguf"]
)
def test_a_model_that_is_not_in_the_cache_is_an_error_without_a_network(cache, name):
    with pytest.raises(ConnectionError, match=rf"{name} is missing .*in the cache .*hub, and the"):
        pretrained.load(name)


@pytest.mark.parametrize("name", ["hf://", "hf://tiny", "hf://a/b/c", "hf://a/b@", "hf://../x/y"])
def test_a_name_that_no_model_of_the_hub_can_have_is_refused(cache, name):
    with pytest.raises(ValueError, match=r"hf://.*is not the name|is named hf://ORGANISATION/NAME"):
        pretrained.load(name)


def test_a_run_and_a_path_object_are_names_too(tmp_path):
    same_logits(Path(REFERENCES / "llama_tied"))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has no finished model yet"):
        pretrained.load(tmp_path)
    shutil.copytree(REFERENCES / "llama_tied", tmp_path / "model")
    same_logits(tmp_path)
    write_gguf(REFERENCES / "llama_tied", tmp_path / "renamed.bin")  # known by its first bytes
    same_logits(str(tmp_path / "renamed.bin"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model-q8.gguf", r"model-q8\.gguf is a complete model; give its path: .*model-q8"),
        ("pytorch_model.bin", "is a pickle, which can run code when .*; have transformers"),
        ("consolidated.00.pth", "is a pickle, which can run code when .*; have transformers"),
        ("model.pt", "is a pickle, which can run code when .*; have transformers"),
        ("weights.pkl", "is a pickle, which can run code when .*; have transformers"),
        ("tf_model.h5", "is in a format that is not supported; have transformers"),
        ("adapter_model.safetensors", "has another name; is it an adapter"),
    ],
)
def test_weights_of_another_kind_are_named_and_no_code_of_theirs_runs(folder_of, file, message):
    folder = folder_of("llama_tied")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(f"cos\nmkdir\n(V{folder}/unpickled\ntR.".encode())
    with pytest.raises(FileNotFoundError, match=rf"contains no weights.*{message}"):
        pretrained.load(folder)
    assert not (folder / "unpickled").exists()


def test_files_that_are_no_model_are_named(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin", "config.json"):
        (tmp_path / name).write_text(json.dumps({}))
        with pytest.raises(NotADirectoryError, match=rf"a folder or a \.gguf file; .*{name}"):
            pretrained.load(tmp_path / name)
    only = tmp_path / "only"
    only.mkdir()
    write_gguf(REFERENCES / "llama_tied", only / "a.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"has no config\.json.*a\.gguf is a complete model"
    ):
        pretrained.load(only)
    with pytest.raises(FileNotFoundError, match=r"a\.gguf contains no tokenizer"):
        pretrained.load_tokenizer(only / "a.gguf")
