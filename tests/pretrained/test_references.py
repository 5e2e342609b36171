"""Reading and writing the models of `transformers`; their logits are in test_families.py."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pretrained.conftest import REFERENCES
from tests.rounding import assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import ConfigError
from tfllm.pretrained.hugging_face.decoder_config import from_hugging_face
from tfllm.pretrained.hugging_face.tensor_files import INDEX

NAMES = sorted(path.name for path in REFERENCES.iterdir())


def tensors(folder):
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


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
    # Without a tokenizer there are no special tokens; the others are not read by the model, or not
    # beside those that say more: no_rope_layers, layer_types.
    aside = {"bos_token_id", "eos_token_id", "dtype", "transformers_version"}
    aside |= {"reorder_and_upcast_attn"} | {key for key in theirs if key.startswith("summary_")}
    aside |= {"no_rope_layer_interval", "max_window_layers"}
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
    exact = pretrained.load(REFERENCES / "llama_tied").model
    bound = weight_rounding(
        exact, lambda: exact(reference["token_ids"]), dtype.removeprefix("mixed_")
    )
    assert_within(logits, reference["logits"], bound)


def test_auto_keeps_the_precision_of_the_file():
    policies = {n: pretrained.load(REFERENCES / n, dtype="auto").model.dtype_policy for n in NAMES}
    halves = {name for name, policy in policies.items() if policy.name == "bfloat16"}
    assert halves == {"llama_sharded"}
    assert all(policies[name].name == "float32" for name in policies.keys() - halves)


def old_rope(folder, **changes):
    """The folder's rotary settings as versions before 5 of transformers wrote them."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    new = values.pop("rope_parameters")
    values["rope_theta"] = new.pop("rope_theta")
    if new["rope_type"] != "default":
        values["rope_scaling"] = new
    path.write_text(json.dumps(values | changes))
    return folder


@pytest.mark.parametrize("name", ["llama_tied", "llama3", "llama_linear", "qwen3_windows"])
def test_rotary_settings_are_read_from_their_old_places_too(name, folder_of):
    loaded = pretrained.load(old_rope(folder_of(name))).model
    assert loaded.config == pretrained.load(REFERENCES / name).model.config
    reference = np.load(REFERENCES / name / "reference.npz")
    bound = weight_rounding(loaded, lambda: loaded(reference["token_ids"]))
    assert_within(loaded(reference["token_ids"]), reference["logits"], bound)


@pytest.mark.parametrize("name", ["llama_tied", "llama3", "llama_linear"])
def test_rotary_settings_are_written_into_their_old_places_too(name, tmp_path):
    model = pretrained.load(REFERENCES / name).model
    path = pretrained.save(model, tmp_path / "model") / "config.json"
    values = json.loads(path.read_text())
    for place in (["rope_parameters"], ["rope_theta", "rope_scaling"]):
        left = {key: value for key, value in values.items() if key not in place}
        assert from_hugging_face(left, where="config.json")[1] == model.config


def test_the_first_name_of_the_rotary_type_and_a_context_outside_are_read(folder_of):
    folder = old_rope(folder_of("llama3"), original_max_position_embeddings=14)
    values = json.loads((folder / "config.json").read_text())
    values["rope_scaling"]["type"] = values["rope_scaling"].pop("rope_type")
    del values["rope_scaling"]["original_max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(values))
    expected = pretrained.load(REFERENCES / "llama3").model.config
    assert pretrained.load(folder).model.config == expected


LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters and rope_scaling .* must agree; received .*llama3.*linear",
        ),
        (
            {"original_max_position_embeddings": 28},
            "original_max_position_embeddings is given in two places, .*received 14 and 28",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", **LLAMA3}},
            "a llama3 rope_scaling needs original_max_position_embeddings",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "RopeScaling needs factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, "factor must be a number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor must be positive"),
        ({"rope_parameters": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "received .*full_attention"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor .*0.5"),
        ({"rope_parameters": [1]}, r"rope_parameters must be a JSON object; received \[1\]"),
        ({"rope_parameters": KeyError, "rope_theta": "big"}, "rope_theta must not be text"),
    ],
)
def test_rotary_settings_that_cannot_be_followed_are_refused(folder_of, changes, message):
    with pytest.raises(ConfigError, match=message):
        pretrained.load(folder_of("llama3", **changes))


@pytest.mark.parametrize(
    ("name", "changes", "window", "blocks"),
    [
        ("mistral", {"sliding_window": KeyError}, 4096, None),
        ("mistral", {"sliding_window": None}, None, None),
        ("mistral", {"layer_types": ["sliding_attention"] * 2}, 7, None),
        ("qwen2", {"layer_types": KeyError}, 5, (1, 2)),
        ("qwen2", {"layer_types": None, "max_window_layers": 0}, 5, None),
        ("qwen2", {"layer_types": None, "max_window_layers": 3}, None, None),
        ("qwen2", {"layer_types": None, "max_window_layers": None}, None, None),
        ("qwen2", {"layer_types": None, "use_sliding_window": False}, None, None),
        ("qwen2", {"layer_types": None, "sliding_window": KeyError}, 4096, (1, 2)),
        ("smollm3_windows", {"layer_types": KeyError}, 9, (1,)),
        (
            "smollm3_windows",
            {"layer_types": None, "no_rope_layers": None, "no_rope_layer_interval": 2},
            9,
            (1,),
        ),
        (
            "smollm3_windows",
            {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            9,
            (0,),
        ),
    ],
)
def test_windows_stand_where_transformers_would_have_them(folder_of, name, changes, window, blocks):
    config = pretrained.load(folder_of(name, **changes)).model.config
    assert (config.sliding_window, config.window_layers) == (window, blocks)


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({"no_rope_layers": KeyError}, (0, 1, 2)),
        ({"no_rope_layers": None, "no_rope_layer_interval": 2}, (0, 2)),
        ({"no_rope_layers": None, "no_rope_layer_interval": 1}, ()),
        ({"no_rope_layers": [1, 1, 1, 1, 0]}, None),
    ],
)
def test_blocks_rotate_where_transformers_would_rotate(folder_of, changes, blocks):
    config = pretrained.load(folder_of("smollm3", **changes)).model.config
    assert config.rope_layers == blocks


def test_keys_left_out_have_the_defaults_of_transformers(folder_of):
    defaults = {
        "mistral": {"num_kv_heads": 8, "max_sequence_length": 131_072, "rope_theta": 10_000.0},
        "qwen2": {"num_kv_heads": 32, "max_sequence_length": 32_768, "tied_embeddings": False},
        "qwen3": {"num_kv_heads": 32, "head_dim": 128, "norm_epsilon": 1e-6},
        "smollm3": {"num_kv_heads": 4, "tied_embeddings": True, "rope_theta": 2_000_000.0},
    }
    for name, expected in defaults.items():
        values = json.loads((REFERENCES / name / "config.json").read_text())
        for key in (
            *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
            *("tie_word_embeddings", "rope_parameters", "hidden_act", "attention_dropout"),
        ):
            values.pop(key)
        values |= {"num_attention_heads": 32, "hidden_size": 64}
        _, config = from_hugging_face(values, where="config.json")
        assert expected.items() <= dataclasses.asdict(config).items(), name
        null = {**values, "num_key_value_heads": None, "head_dim": 4}
        assert from_hugging_face(null, where="config.json")[1].num_kv_heads == 32


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
    model = pretrained.load(folder).model
    bound = weight_rounding(model, lambda: model(reference["token_ids"]))
    assert_within(model(reference["token_ids"]), reference["logits"], bound)


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
        ("llama_tied", {"model_type": "lama"}, "unknown model_type 'lama'.*supported: llama, "),
        ("llama_tied", {"attention_bias": True}, "lack weights of the model: .*k_proj.bias"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be at least 1; received 0"),
        (
            "qwen2",
            {"use_sliding_window": False},
            "layer_types has 'sliding_attention', but there is no window: .*use_sliding_window=Fal",
        ),
        ("qwen2", {"layer_types": ["full_attention"]}, "one entry for each of the 3 layers"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}, "interval must be at"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must have .* 4 layers"),
        ("llama_tied", {"use_sliding_window": True}, "use_sliding_window .*True"),
        (
            "llama_tied",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types.*cont",
        ),
        ("llama_tied", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama_tied", {"hidden_act": "gelu_nw"}, "unknown hidden_act 'gelu_nw'.*'gelu_new'"),
        ("llama_tied", {"hidden_size": KeyError}, "has no 'hidden_size'"),
        ("llama_tied", {"num_key_value_heads": 3}, "num_kv_heads must divide num_heads"),
        ("llama_tied", {"head_dim": KeyError, "hidden_size": 30}, "must be divisible by num_heads"),
        ("llama_tied", {"num_hidden_layers": "two"}, "num_layers must not be text; received 'two'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"embd_pdrop": "none"}, "embd_pdrop must not be text; received 'none'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(folder_of, name, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrained.load(folder_of(name, **changes))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("gpt2", {"embd_pdrop": 0.0, "resid_pdrop": 0.1, "attn_pdrop": 0.1}),
        ("mistral", {"attention_dropout": 0.1}),
        ("llama_tied", {"attention_dropout": 0.1}),
    ],
)
def test_dropouts_that_differ_are_refused_in_training_alone(folder_of, name, rates, tmp_path):
    folder = folder_of(name, **rates)
    model = pretrained.load(folder).model
    reference = np.load(REFERENCES / name / "reference.npz")
    ids = reference["token_ids"]
    bound = weight_rounding(model, lambda: model(ids))
    assert_within(model(ids), reference["logits"], bound)
    key, rate = next(iter(rates.items()))
    again = pretrained.save(model, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())[key] == rate
    copy = model.with_dtype("bfloat16")
    assert copy.unlike_dropouts == model.unlike_dropouts
    model.save(tmp_path / "model.keras")
    stored = keras.models.load_model(tmp_path / "model.keras")
    assert stored.unlike_dropouts == model.unlike_dropouts
    for refused in (model, copy, stored, pretrained.load(again).model):
        refused.compile("adam")
        for train in (refused.fit, refused.train_on_batch):
            with pytest.raises(ValueError, match=rf"config\.json has .*{key}={rate}.*dropout=\.\."):
                train(ids[:, :-1], ids[:, 1:])
    assert pretrained.load(folder, dropout=0.2).model.untrainable == ""


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


def test_a_copy_in_another_dtype_keeps_its_tokenizer(folder_of):
    model = pretrained.load(folder_of("llama_tied")).model
    model.attach("a tokenizer", "settings")
    assert model.with_dtype("bfloat16").tokenizer == "a tokenizer"
