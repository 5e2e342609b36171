import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.pretrained.conftest import REFERENCES
from tfllm import pretrained


def change(folder, **tensors):
    """Replace, add or (None) remove tensors of the folder's file."""
    path = folder / "model.safetensors"
    stored = load_file(path) | tensors
    save_file({key: value for key, value in stored.items() if value is not None}, path)


@pytest.mark.parametrize("length", [0, 5, 100, 50_000, -1])
def test_a_file_cut_short_is_named_and_nothing_is_loaded(folder_of, length):
    path = folder_of("llama_tied") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short.*copy the"):
        pretrained.load(path.parent)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tfllm.json"])
def test_a_damaged_json_file_is_named(folder_of, name):
    folder = folder_of("llama_tied")
    (folder / name).write_text('{"model_type": "ll')
    with pytest.raises(ValueError, match=f"{name} is damaged or cut short"):
        pretrained.load(folder)
    (folder / name).write_text("[1]")
    with pytest.raises(ValueError, match=f"{name} must hold a JSON object; received list"):
        pretrained.load(folder)


def test_missing_extra_and_misshapen_weights_are_named(folder_of):
    folder = folder_of("llama_tied")
    key = "model.layers.1.mlp.up_proj.weight"
    change(folder, **{key: None})
    with pytest.raises(ValueError, match=f"lack weights of the model: {key}"):
        pretrained.load(folder)
    change(folder, **{key: np.zeros((48, 31), np.float32)})
    with pytest.raises(ValueError, match=rf"{key} must have the shape \[48, 32\].*\[48, 31\]"):
        pretrained.load(folder)
    change(folder, **{key: np.zeros((48, 32), np.int32)})
    with pytest.raises(ValueError, match=f"{key} must be one of .*F32.*received I32"):
        pretrained.load(folder)
    extra = "model.layers.2.mlp.up_proj.weight"
    change(folder, **{key: np.zeros((48, 32), np.float32), extra: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=f"does not have: {extra}"):
        pretrained.load(folder)


def test_an_error_while_loading_leaves_keras_as_it_was(folder_of):
    folder = folder_of("llama_tied", vocab_size=95)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"embed_tokens\.weight must have the shape"):
            pretrained.load(folder)
    pretrained.load(REFERENCES / "llama_tied")


def test_a_place_that_is_no_model_folder(tmp_path, folder_of):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        pretrained.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a model is a folder"):
        pretrained.load(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        pretrained.load(tmp_path)
    folder = folder_of("llama_tied")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle"):
        pretrained.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        pretrained.load_tokenizer(folder)


def test_generation_settings_out_of_range_are_refused(folder_of):
    folder = folder_of("llama_tied")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "top_p": 7.0}))
    with pytest.raises(ValueError, match=r"generation settings in .*top_p must lie in .*7\.0"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"max_new_tokens": 9, "temperature": 0.5}, {"temperature": 0.0, "max_new_tokens": 9}),
        # What transformers does where the file does not say: 50 likeliest tokens, temperature 1.
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50, "top_p": 1.0}),
        ({"do_sample": True, "top_k": 0, "min_p": 0.1}, {"top_k": 0, "min_p": 0.1}),
    ],
)
def test_generation_settings_mean_what_they_mean_to_transformers(folder_of, written, expected):
    folder = folder_of("llama_tied")
    (folder / "generation_config.json").write_text(json.dumps(written))
    generation = pretrained.load(folder).generation
    assert {name: getattr(generation, name) for name in expected} == expected
