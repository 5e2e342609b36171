"""KerasHub's presets, tokenizers and copies of its models, against KerasHub itself."""

import json
import shutil

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.pretrained.keras_hub_models import (
    BACKBONES,
    REFUSED,
    causal_lm,
    text_model,
)
from tests.rounding import UNIT_ROUNDOFF, assert_within, weight_rounding
from tfllm.config import ConfigError
from tfllm.pretrained import load_keras_hub
from tfllm.pretrained.keras_hub.models import (
    in_one_dtype,
    is_keras_hub_model,
    is_keras_hub_preset,
    with_dtype,
)
from tfllm.pretrained.keras_hub.tokenizer import keras_hub_tokenizer, prompt_of

TEXTS = [
    "",
    "the cat sat on the mat",
    "  two  spaces\n\n\tand\r\nlines ",
    "It's 12345 o'clock; 3.14!",
    "été naïve 你好 🎉 \u3000x\u00a0y",
    "a\x00b <|im_start|>user\n <start_of_turn>?",
]
DECODED = sorted(set(BACKBONES) - set(REFUSED))


def logits(model):
    ids = tf.constant([[5, 9, 2, 40, 7]])
    inputs = {"token_ids": ids, "padding_mask": tf.ones_like(ids, tf.bool)}
    return np.asarray(model(inputs), np.float32)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset") / "gpt2"
    text_model("GPT2").save_to_preset(str(folder))
    return folder


# ---------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("name", DECODED)
def test_ids_are_those_of_keras_hub(name):
    model = text_model(name)
    ours, (begin, ends) = keras_hub_tokenizer(model), prompt_of(model)
    for text in TEXTS:
        theirs = np.asarray(model.preprocessor.tokenizer([text])[0], int).tolist()
        assert ours.encode(text) == [*begin, *theirs]
        seen = model.preprocessor.generate_preprocess([text], sequence_length=80)
        mask = np.asarray(seen["padding_mask"])[0].astype(bool)
        assert np.asarray(seen["token_ids"])[0][mask].tolist() == ours.encode(text)
    assert ours.end_token_ids == ends
    assert ours.end_token_id == model.preprocessor.tokenizer.end_token_id


@pytest.mark.parametrize("name", [pytest.param("GPT2", marks=pytest.mark.slow), "Llama"])
def test_the_graph_has_the_same_ids(name):
    ours = keras_hub_tokenizer(text_model(name))
    graph = ours.graph()
    assert graph.tokenize(tf.constant(TEXTS)).to_list() == ours.encode_batch(TEXTS)
    bare = graph.tokenize(tf.constant(TEXTS), add_special=False).to_list()
    assert bare == [ids[1:] for ids in ours.encode_batch(TEXTS)]


def test_ends_are_those_of_generate():
    tokens = {
        "Llama3": ["<|end_of_text|>", "<|eot_id|>"],
        "Gemma3": ["<eos>", "<end_of_turn>"],
        "Qwen3": ["<|im_end|>"],
    }
    for name, expected in tokens.items():
        ours = keras_hub_tokenizer(text_model(name))
        assert [ours.token(i) for i in ours.end_token_ids] == expected


def test_a_control_token_that_somebody_writes_is_that_token():
    """In KerasHub it is one in byte-level BPE, and characters in SentencePiece."""
    for name in ("GPT2", "Gemma"):
        model = text_model(name)
        ours = keras_hub_tokenizer(model)
        token = "<|endoftext|>"
        assert ours.encode(f"cat{token}")[-1] == ours.special_tokens[token]
        theirs = np.asarray(model.preprocessor.tokenizer([f"cat{token}"])[0], int).tolist()
        assert (theirs == ours.encode(f"cat{token}", add_special=False)) == (name == "GPT2")
        plain = ours.encode(f"cat{token}", add_special=False, parse_special=False)
        assert (theirs == plain) == (name == "Gemma")


def test_asking_for_the_prompt_leaves_the_model_as_it_was():
    model = text_model("GPT2")
    made = model.make_generate_function()
    prompt_of(model)
    assert model.generate_function is made


def test_tokenizers_of_other_kinds_and_none_are_refused():
    bare = causal_lm("GPT2")
    with pytest.raises(ValueError, match="GPT2CausalLM has no preprocessor"):
        keras_hub_tokenizer(bare)
    model = text_model("GPT2")
    model.preprocessor.tokenizer = keras_hub.tokenizers.ByteTokenizer()
    with pytest.raises(ValueError, match="GPT2CausalLM has a ByteTokenizer"):
        keras_hub_tokenizer(model)


def test_a_tokenizer_that_does_something_of_its_own_is_refused():
    model = text_model("GPT2")

    class Upper(type(model.preprocessor.tokenizer)):
        def tokenize(self, inputs):
            return super().tokenize([text.upper() for text in inputs])

    model.preprocessor.tokenizer.__class__ = Upper
    with pytest.raises(ValueError, match="Upper must give the ids of its vocabulary"):
        keras_hub_tokenizer(model)


# ---------------------------------------------------------------------- presets


def test_a_preset_is_told_from_other_folders(preset, tmp_path):
    assert is_keras_hub_preset(preset)
    assert not is_keras_hub_preset(tmp_path) and not is_keras_hub_preset(tmp_path / "none")
    for content in ('{"model_type": "llama"}', "[]", "{", '{"class_name": "Dense"}'):
        (tmp_path / "config.json").write_text(content)
        assert not is_keras_hub_preset(tmp_path)
        with pytest.raises(FileNotFoundError, match="not a KerasHub preset"):
            load_keras_hub(tmp_path)


def test_a_preset_gives_the_same_model(preset):
    model = load_keras_hub(preset)
    assert is_keras_hub_model(model)
    np.testing.assert_array_equal(logits(model), logits(text_model("GPT2")))
    assert {w.dtype for w in load_keras_hub(preset, dtype="bfloat16").weights} == {"bfloat16"}
    encode = keras_hub_tokenizer(model).encode
    assert encode("the cat") == [1, *encode("the cat", add_special=False)]


def test_a_preset_is_loaded_as_what_answers_in_text(preset):
    loaded = tfllm.load(preset)
    assert type(loaded) is tfllm.TextGeneration and is_keras_hub_model(loaded.model)
    expected = tfllm.TextGeneration.of_keras_hub(preset).generate("the cat", max_new_tokens=3)
    assert loaded.generate("the cat", max_new_tokens=3) == expected
    with pytest.raises(ValueError, match=r"preset of KerasHub.*TextGeneration\.load"):
        tfllm.pretrained.load(preset)


def test_a_preset_that_names_other_modules_is_refused_unread(preset, tmp_path):
    shutil.copytree(preset, tmp_path, dirs_exist_ok=True)
    task = json.loads((tmp_path / "task.json").read_text())
    task["config"]["backbone"]["module"] = "antigravity"
    (tmp_path / "task.json").write_text(json.dumps(task))
    with pytest.raises(ValueError, match=r"task\.json names GPT2Backbone of antigravity"):
        load_keras_hub(tmp_path)


def test_a_damaged_preset_is_an_error_that_names_it(preset, tmp_path):
    shutil.copytree(preset, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(OSError, match=r"model\.weights\.h5|file signature"):
        load_keras_hub(tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(ValueError, match=r"task\.json is damaged or cut short"):
        load_keras_hub(tmp_path)


def test_dtypes_that_are_none_of_a_model_are_refused(preset):
    with pytest.raises(ConfigError, match=r"received 'int8'.*quantize"):
        load_keras_hub(preset, dtype="int8")
    with pytest.raises(ConfigError, match="received 'int8'"):
        with_dtype(causal_lm("GPT2"), "int8")


# ---------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "name",
    [n if n in ("GPT2", "Gemma") else pytest.param(n, marks=pytest.mark.slow) for n in DECODED],
)
def test_a_copy_in_another_dtype_has_all_weights(name):
    model = causal_lm(name)
    cast = with_dtype(model, "bfloat16")
    assert type(cast) is type(model) and cast.backbone.compute_dtype == "bfloat16"
    again = with_dtype(cast, "float32")
    assert len(again.weights) == len(model.weights)
    for mine, theirs in zip(again.weights, model.weights, strict=True):
        rounded = tf.cast(tf.cast(theirs.value, tf.bfloat16), tf.float32)
        if theirs.trainable:
            np.testing.assert_array_equal(mine.value.numpy(), rounded.numpy())
        else:  # frequencies of a rotation may stay as they were
            u = UNIT_ROUNDOFF["bfloat16"]
            assert_within(mine.value, theirs.value, u * np.abs(theirs.value.numpy()))


def test_a_model_in_one_dtype_is_not_copied_and_a_mixed_one_is():
    model = causal_lm("GPT2")
    assert in_one_dtype(model) is model
    mixed = in_one_dtype(causal_lm("GPT2", "mixed_bfloat16"))
    assert {w.dtype for w in mixed.weights} == {"bfloat16"}


def test_low_rank_factors_are_merged_in_a_copy():
    model = text_model("Llama")
    before = logits(model)
    model.backbone.enable_lora(3)
    factors = [w for w in model.weights if "lora" in w.name]
    assert factors
    random = np.random.default_rng(1)
    for weight in factors:
        weight.assign(random.normal(0, 0.2, weight.shape))
    merged = in_one_dtype(model)
    assert merged is not model and not [w for w in merged.weights if "lora" in w.name]
    bound = weight_rounding(merged, lambda: logits(merged))
    assert_within(logits(merged), logits(model), bound)
    assert np.abs(logits(merged) - before).max() > 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`:UserWarning")
def test_a_quantized_model_keeps_its_types():
    model = text_model("Llama")
    model.backbone.quantize("int8")
    assert in_one_dtype(model) is model
    with pytest.raises(ValueError, match="quantized KerasHub model cannot be changed"):
        with_dtype(model, "bfloat16")
