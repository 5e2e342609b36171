"""How `AutoTokenizer` of transformers reads the folders that tfllm writes.

See record_auto_tokenizers.py."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest

from tests.pretrained.record_auto_tokenizers import (
    FAMILIES,
    RECORDED,
    TEXTS,
    TOKENIZERS,
    byte_pair,
    model_of,
)
from tfllm.pretrained import load, save


@functools.cache
def recorded():
    return json.loads(RECORDED.read_text())


@functools.cache
def made(name):
    return TOKENIZERS[name]()


def test_both_versions_are_recorded_for_every_family():
    assert [v.split(".")[0] for v in recorded()["transformers"]] == ["4", "5"]
    cases = {f"{family}-{name}" for family, names in FAMILIES.items() for name in names}
    assert {*recorded()["classes"]} == {*cases, *(f"{case}-again" for case in cases)}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_that_transformers_gives(name):
    values, tokenizer = recorded()["tokenizers"][name], made(name)
    assert recorded()["texts"] == TEXTS
    assert tokenizer.encode_batch(TEXTS) == values["ids"]
    assert tokenizer.encode_batch(TEXTS, add_special=False) == values["plain"]
    assert tokenizer.end_token_id == values["end"]


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "byte_pair_chat"), ("llama", "sentence_piece_first"), ("bert", "word_piece_cased"),
     ("t5", "mbart"), ("qwen2", "byte_pair_qwen2_chat"), ("qwen2", "byte_pair")],
)  # fmt: skip
def test_what_is_written_is_what_was_recorded(family, name, tmp_path):
    tokenizer = made(name)
    save(model_of(family, tokenizer.vocab_size, tokenizer), tmp_path / "model", tokenizer)
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    kept = ("tokenizer_class", "model_input_names", "add_bos_token", "add_eos_token", "made_from",
            "do_lower_case", "strip_accents", "tokenize_chinese_chars")  # fmt: skip
    written = {key: settings[key] for key in kept if key in settings}
    written["model_type"] = config["model_type"]
    written["files"] = sorted(p.name for p in (tmp_path / "model").glob("tokenizer.*"))
    is_bert = family == "bert"
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    expected = {
        "tokenizer_class": "BertTokenizer" if is_bert else "PreTrainedTokenizerFast",
        "model_input_names": inputs if is_bert else [inputs[0], inputs[2]],
        "model_type": "llama" if (family, name) == ("qwen2", "byte_pair") else family,
        "files": ["tokenizer.json"],
    }
    if name == "sentence_piece_first":
        expected |= {"add_bos_token": True, "add_eos_token": False}
        expected |= {"made_from": "tokenizer.model", "files": ["tokenizer.json", "tokenizer.model"]}
    if is_bert:
        expected |= {"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": True}
    assert written == expected
    loaded = load(tmp_path / "model").tokenizer
    assert type(loaded) is type(tokenizer)
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


def test_a_qwen2_with_another_tokenizer_is_a_llama_that_computes_the_same(tmp_path, caplog):
    tokenizer = made("byte_pair")
    model = model_of("qwen2", tokenizer.vocab_size, tokenizer)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    save(model, tmp_path / "model", tokenizer)
    assert "saved as a Llama with attention_bias" in caplog.text
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["attention_bias"] is True and config["architectures"] == ["LlamaForCausalLM"]
    other = load(tmp_path / "model").model
    ids = rng.integers(0, tokenizer.vocab_size, (2, 9)).astype(np.int32)
    # The same products in the same order, and a sum with zero.
    np.testing.assert_array_equal(np.array(model(ids)), np.array(other(ids)))
    save(other, tmp_path / "again", tokenizer)
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again["model_type"] == "llama"
    caplog.clear()
    save(model, tmp_path / "without")
    save(model, tmp_path / "qwen", made("byte_pair_qwen2"))
    for name in ("without", "qwen"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["model_type"] == "qwen2"
    assert not caplog.text


def test_a_new_tokenizer_of_qwen2_has_its_rules():
    tokenizer = byte_pair("qwen2")
    assert tokenizer.follows_qwen2 and not byte_pair().follows_qwen2
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")
    content = json.loads(tokenizer.to_json())
    for part, value in (
        ("normalizer", None),
        ("pre_tokenizer", {**content["pre_tokenizer"]["pretokenizers"][1], "use_regex": True}),
        ("model", {**content["model"], "ignore_merges": True}),
    ):
        assert not type(tokenizer)(json.dumps({**content, part: value})).follows_qwen2
    with pytest.raises(ValueError, match="split must be one of tfllm, qwen2; received 'qwen'"):
        byte_pair("qwen")
