"""Adapters in PEFT's layout, compared with PEFT's recorded results (`record_adapters.py`)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from tests.pretrained.record_adapters import ADAPTED, ADAPTERS, OURS
from tests.rounding import assert_within, weight_rounding
from tfllm import pretrained
from tfllm.config import LoraConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained.adapters import WEIGHTS, load_adapter, save_adapter
from tfllm.pretrained.fingerprint import fingerprint, same_weights

REFERENCES = Path(__file__).parent / "references"


def base(name, **options):
    return pretrained.load(REFERENCES / name, dropout=0.0, **options).model


def logits(model, ids):
    return model(ids).numpy()


@pytest.fixture(scope="module")
def llama():
    """Each test leaves it as it was."""
    return base("llama_tied")


@pytest.fixture
def folder_of(tmp_path):
    """A copy of a recorded adapter, some keys of its configuration changed."""

    def copy(name="llama", **changes):
        folder = tmp_path / "adapter"
        ignored = shutil.ignore_patterns("reference.npz")
        shutil.copytree(ADAPTERS / name, folder, ignore=ignored)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return copy


def changed(folder, change):
    """The adapter's tensors, changed and written again."""
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)
    return folder


def random_adapter(model, name="default", **options):
    model.add_adapter(LoraConfig(**options), name)
    rng = np.random.default_rng(len(name))
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_of_peft_computes_what_peft_computes(name):
    model = base(ADAPTED[name][0])
    expected = np.load(ADAPTERS / name / "reference.npz")
    ids = expected["token_ids"]
    before = logits(model, ids)
    load_adapter(model, ADAPTERS / name)
    assert np.abs(expected["logits"] - before).max() > 1
    bound = weight_rounding(model, lambda: logits(model, ids))
    assert_within(logits(model, ids), expected["logits"], bound)
    model.set_adapter(None)
    np.testing.assert_array_equal(logits(model, ids), before)
    model.set_adapter("default")
    model.merge_adapter()
    assert_within(logits(model, ids), expected["logits"], bound)


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_of_peft_is_saved_as_peft_saved_it(name, tmp_path):
    model = base(ADAPTED[name][0])
    load_adapter(model, ADAPTERS / name)
    save_adapter(model, tmp_path / "again", base=ADAPTED[name][0])
    theirs, ours = (load_file(f / WEIGHTS) for f in (ADAPTERS / name, tmp_path / "again"))
    assert theirs.keys() == ours.keys()
    for tensor in theirs:
        np.testing.assert_array_equal(ours[tensor], theirs[tensor])
    theirs, ours = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (ADAPTERS / name, tmp_path / "again")
    )
    assert ours.keys() <= theirs.keys()
    for key in ("peft_type", "task_type", "base_model_name_or_path", "lora_dropout", "bias"):
        assert ours[key] == theirs[key]
    assert ours["fan_in_fan_out"] == theirs["fan_in_fan_out"] == (name == "gpt2")
    assert ours["layers_to_transform"] == theirs["layers_to_transform"]


@pytest.mark.parametrize("name", OURS)
def test_an_adapter_of_ours_comes_back(name, tmp_path):
    source, options = OURS[name]
    model = base(source)
    random_adapter(model, **options)
    ids = np.load(REFERENCES / source / "reference.npz")["token_ids"]
    save_adapter(model, tmp_path / "adapter")
    other = base(source)
    before = logits(other, ids)
    load_adapter(other, tmp_path / "adapter", name="other")
    assert other.adapter == "other"
    assert np.abs(logits(other, ids) - before).max() > 0.5
    bound = weight_rounding(model, lambda: logits(model, ids))
    assert_within(logits(other, ids), logits(model, ids), bound)


def test_an_architecture_of_no_family_keeps_adapters_too(tmp_path):
    sizes = {"vocab_size": 60, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    config = ModelConfig(**sizes, positions="sinusoidal", norm="layer")
    model = CausalLM(config)
    random_adapter(model, targets=("q_proj", "down_proj"))
    save_adapter(model, tmp_path / "adapter")
    other = CausalLM(config)
    load_adapter(other, tmp_path / "adapter")
    ids = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(logits(other, ids), logits(model, ids))


def test_two_adapters_are_swapped_on_one_base(llama, tmp_path):
    ids = np.load(REFERENCES / "llama_tied" / "reference.npz")["token_ids"]
    alone = {}
    for name, options in (("first", {"rank": 2}), ("second", {"targets": "q_proj,v_proj"})):
        model = base("llama_tied")
        random_adapter(model, name, **options)
        alone[name] = logits(model, ids)
        save_adapter(model, tmp_path / name)
    without = logits(llama, ids)
    for name in alone:
        load_adapter(llama, tmp_path / name, name=name)
    for name in ("first", "second", "first"):
        llama.set_adapter(name)
        bound = weight_rounding(llama, lambda: logits(llama, ids))
        assert_within(logits(llama, ids), alone[name], bound)
    llama.delete_adapter("first")
    assert llama.adapters == ("second",) and llama.adapter is None
    llama.delete_adapter("second")
    np.testing.assert_array_equal(logits(llama, ids), without)
    assert all(variable.trainable for variable in llama.weights)


# ------------------------------------------------------------------ what is refused


def refused(model, folder, *words, error=ValueError):
    before = [variable.path for variable in model.weights]
    with pytest.raises(error) as raised:
        load_adapter(model, folder)
    for word in words:
        assert word in str(raised.value)
    assert model.adapters == () and [v.path for v in model.weights] == before


def test_adapter_of_another_base_is_refused(tmp_path, llama):
    other = base("llama_tied")
    for variable in other.weights:  # one step of training away, and of the same shapes
        variable.assign(variable + 1e-2 * tf.ones_like(variable))
    random_adapter(other)
    save_adapter(other, tmp_path / "adapter", base="another/model")
    refused(llama, tmp_path / "adapter", "another base (another/model)", "weights are not those")


def test_adapter_of_another_architecture_is_refused(llama, folder_of):
    refused(llama, folder_of("gpt2"), "another base (gpt2)", "transformer.h.0.attn.c_attn")


def test_adapter_of_a_deeper_model_is_refused(llama, folder_of):
    def deeper(tensors):
        return {name.replace("layers.1.", "layers.7."): t for name, t in tensors.items()}

    folder = changed(folder_of(), deeper)
    refused(llama, folder, "another base (llama_tied)", "model.layers.7.")


def test_adapter_of_a_wider_model_is_refused(llama, folder_of):
    def wider(tensors):
        name = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"
        return {**tensors, name: np.zeros((3, 40), np.float32)}

    refused(llama, changed(folder_of(), wider), "v_proj", "[rank, 32]", "[3, 40]")


def test_adapter_with_half_a_pair_is_refused(llama, folder_of):
    def half(tensors):
        return {name: t for name, t in tensors.items() if "0.self_attn.v_proj.lora_B" not in name}

    refused(llama, changed(folder_of(), half), "one of the two matrices", "layers.0.self_attn.v")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["experts"]),
        ("layer_replication", [[0, 2]]),
        ("an_option_of_the_future", {"a": 1}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("peft_type", "IA3"),
    ],
)
def test_an_option_that_changes_the_result_is_refused_by_name(key, value, llama, folder_of):
    refused(llama, folder_of(**{key: value}), "adapter_config.json", key)


@pytest.mark.parametrize("extra", ["lora_magnitude_vector", "bias"])
def test_a_tensor_of_another_kind_is_refused_by_name(extra, llama, folder_of):
    name = f"base_model.model.model.layers.0.self_attn.v_proj.{extra}"
    folder = changed(folder_of(), lambda tensors: {**tensors, name: np.zeros(3, np.float32)})
    refused(llama, folder, name)


def test_a_folder_without_an_adapter_says_what_it_lacks(llama, tmp_path, folder_of):
    refused(llama, tmp_path / "nowhere", "adapter_config.json", error=FileNotFoundError)
    refused(llama, REFERENCES / "llama_tied", "adapter_config.json", error=FileNotFoundError)
    folder = folder_of()
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    refused(llama, folder, "adapter_model.bin is a pickle", error=FileNotFoundError)


def test_damaged_files_are_refused(llama, folder_of):
    folder = folder_of()
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-5])
    refused(llama, folder, WEIGHTS, "damaged")
    (folder / WEIGHTS).write_bytes(whole)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"')
    refused(llama, folder, "adapter_config.json is damaged")


def test_saving_loses_nothing_that_is_not_an_adapter(tmp_path):
    model = base("llama_tied")
    with pytest.raises(ValueError, match="no adapter None"):
        save_adapter(model, tmp_path / "adapter")
    random_adapter(model)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        save_adapter(model, kept)
    assert (kept / "thesis.txt").read_text() == "years"
    first = save_adapter(model, tmp_path / "adapter")
    before = load_file(first / WEIGHTS)
    model.trainable_variables[0].assign_add(tf.ones_like(model.trainable_variables[0]))
    save_adapter(model, first)  # in its place
    assert any((load_file(first / WEIGHTS)[n] != t).any() for n, t in before.items())


def test_a_model_folder_has_no_place_for_an_adapter(tmp_path):
    model = base("llama_tied")
    random_adapter(model)
    with pytest.raises(ValueError, match=r"merge_adapter\(\) first"):
        pretrained.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


# ------------------------------------------------------------------ the fingerprint


def test_a_fingerprint_knows_weights_in_any_precision(llama):
    here = fingerprint(llama)
    assert fingerprint(base("llama_tied")) == here
    assert fingerprint(base("llama_tied", dtype="bfloat16")) == here
    adapted = base("llama_tied")
    random_adapter(adapted)
    assert fingerprint(adapted) == here
    adapted.merge_adapter()
    assert not same_weights(fingerprint(adapted), here)
    assert not same_weights(fingerprint(base("llama_untied")), here)


def test_weights_stored_as_integers_are_known_by_their_norms(llama):
    quantized = {**fingerprint(llama), "matrices": None}
    assert same_weights(quantized, fingerprint(llama))
    assert not same_weights({**quantized, "norms": "other"}, fingerprint(llama))
