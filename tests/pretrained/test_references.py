"""Against models and logits of `transformers`; see record_references.py."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pretrained.conftest import REFERENCES
from tfllm import pretrained
from tfllm.config import ConfigError
from tfllm.pretrained.tensor_files import INDEX

NAMES = sorted(path.name for path in REFERENCES.iterdir())


def tensors(folder):
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    reference = np.load(REFERENCES / name / "reference.npz")
    model = pretrained.load(REFERENCES / name).model
    logits = model(reference["token_ids"]).numpy()
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-4, rtol=0)
    # Teacher-forced on the continuation that transformers generated, each token is the likeliest.
    continued = reference["continued"]
    start = reference["token_ids"].shape[1]
    likeliest = model(continued[:, :-1]).numpy().argmax(-1)
    np.testing.assert_array_equal(likeliest[:, start - 1 :], continued[:, start:])


@pytest.mark.parametrize("name", NAMES)
def test_saving_what_was_loaded_gives_the_same_tensors(name, tmp_path):
    stored = tensors(REFERENCES / name)
    dtype = "bfloat16" if name == "llama_sharded" else "float32"
    model = pretrained.load(REFERENCES / name, dtype="auto").model
    pretrained.save(model, tmp_path / "model", dtype=dtype)
    saved = tensors(tmp_path / "model")
    assert saved.keys() == stored.keys()
    for key in stored:
        assert saved[key].dtype == stored[key].dtype
        np.testing.assert_array_equal(saved[key], stored[key])


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_in_config_json_survives(name, tmp_path):
    pretrained.save(pretrained.load(REFERENCES / name).model, tmp_path / "model")
    theirs = json.loads((REFERENCES / name / "config.json").read_text())
    ours = json.loads((tmp_path / "model" / "config.json").read_text())
    # Without a tokenizer there are no special tokens; the others are not read by the model.
    aside = {"bos_token_id", "eos_token_id", "dtype", "transformers_version"}
    aside |= {"reorder_and_upcast_attn"} | {key for key in theirs if key.startswith("summary_")}
    assert {k: v for k, v in theirs.items() if k not in aside} == {
        k: v for k, v in ours.items() if k in theirs and k not in aside
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_comes_from_the_file(name):
    """Told apart by number: a weight that was skipped or read twice would show."""
    model = pretrained.load(REFERENCES / name).model
    assert sum(v.numpy().size for v in model.weights) == sum(
        v.size for v in tensors(REFERENCES / name).values()
    )


def test_loading_draws_no_random_weights(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("random weights were drawn")

    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", refuse)
    pretrained.load(REFERENCES / "llama_tied")


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_other_precisions_load_the_same_weights(dtype):
    reference = np.load(REFERENCES / "llama_tied" / "reference.npz")
    model = pretrained.load(REFERENCES / "llama_tied", dtype=dtype).model
    assert model.dtype_policy.name == dtype
    logits = model(reference["token_ids"]).numpy()
    np.testing.assert_allclose(logits, reference["logits"], atol=0.15, rtol=0)


def test_auto_keeps_the_precision_of_the_file():
    policies = {n: pretrained.load(REFERENCES / n, dtype="auto").model.dtype_policy for n in NAMES}
    assert {n: p.name for n, p in policies.items()} == {
        "gpt2": "float32",
        "llama_sharded": "bfloat16",
        "llama_tied": "float32",
        "llama_untied": "float32",
    }


def test_the_rotary_base_is_read_from_its_old_place_too(folder_of):
    folder = folder_of("llama_tied", rope_parameters=KeyError, rope_theta=5000.0)
    reference = np.load(REFERENCES / "llama_tied" / "reference.npz")
    logits = pretrained.load(folder).model(reference["token_ids"]).numpy()
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-4, rtol=0)


def test_names_without_the_prefix_and_stored_constants_are_read(folder_of):
    """As in the files of the first GPT-2 on the hub."""
    from safetensors.numpy import save_file

    folder = folder_of("gpt2")
    stored = tensors(folder)
    renamed = {key.removeprefix("transformer."): value for key, value in stored.items()}
    for i in range(2):
        renamed[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 48, 48), np.float32))
    save_file(renamed, folder / "model.safetensors")
    reference = np.load(REFERENCES / "gpt2" / "reference.npz")
    logits = pretrained.load(folder).model(reference["token_ids"]).numpy()
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-4, rtol=0)


def test_a_tied_output_projection_in_the_file_must_be_the_embedding(folder_of):
    from safetensors.numpy import save_file

    folder = folder_of("llama_tied")
    stored = tensors(folder)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].copy()
    save_file(stored, folder / "model.safetensors")
    pretrained.load(folder)
    stored["lm_head.weight"][0, 0] += 1
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight .*differ.*tie_word_embeddings to false"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama_tied", {"model_type": "lama"}, "unknown model_type 'lama'.*'llama'.*supported"),
        ("llama_tied", {"model_type": "mixtral"}, "mixtral.*supported: llama, gpt2, tfllm"),
        (
            "llama_tied",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0}},
            "rope_type .*'default'.*'llama3'",
        ),
        (
            "llama_tied",
            {"rope_parameters": KeyError, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling.rope_type .*'linear'",
        ),
        ("llama_tied", {"partial_rotary_factor": 0.5}, "partial_rotary_factor .*0.5"),
        ("llama_tied", {"attention_bias": True}, "attention_bias and mlp_bias must be alike"),
        ("llama_tied", {"sliding_window": 32}, "sliding_window .*32"),
        ("llama_tied", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama_tied", {"hidden_act": "gelu_nw"}, "unknown hidden_act 'gelu_nw'.*'gelu_new'"),
        ("llama_tied", {"attention_dropout": 0.1}, "attention_dropout .*Give dropout"),
        ("llama_tied", {"hidden_size": KeyError}, "has no 'hidden_size'"),
        ("llama_tied", {"num_key_value_heads": 3}, "num_kv_heads must divide num_heads"),
        ("llama_tied", {"head_dim": KeyError, "hidden_size": 30}, "must be divisible by num_heads"),
        ("llama_tied", {"num_hidden_layers": "two"}, "num_layers must be a whole number"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"embd_pdrop": 0.0}, "one dropout.*embd_pdrop=0.0.*Give dropout"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder_of, name, changes, message):
    with pytest.raises(ConfigError if "dropout" not in message else ValueError, match=message):
        pretrained.load(folder_of(name, **changes))


def test_dropout_can_be_given_where_it_is_not_that_of_the_file(folder_of):
    folder = folder_of("gpt2", embd_pdrop=0.0)
    assert pretrained.load(folder, dropout=0.2).model.config.dropout == 0.2
    assert pretrained.load(REFERENCES / "gpt2").model.config.dropout == 0.1


def test_a_shard_that_is_missing_is_named(folder_of):
    folder = folder_of("llama_sharded")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003\.safetensors"):
        pretrained.load(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged or cut short"):
        pretrained.load(folder)
