"""Rules that tokenizer classes of transformers apply from tokenizer_config.json."""

import json

import pytest
from tokenizers import Tokenizer

from tests.tokenizers.samples import texts
from tfllm.tokenizers import BytePairTokenizer, WordPiece
from tfllm.tokenizers.reading import find_tokenizer
from tfllm.tokenizers.specification.class_rules import with_class_rules

TEXT = "The Café 世界 the"


@pytest.fixture(scope="module")
def word_piece():
    return json.loads(WordPiece.train([*texts(), TEXT], 300, lowercase=False).to_json())


@pytest.fixture(scope="module")
def byte_pair():
    return json.loads(BytePairTokenizer.train(texts(), 300).to_json())


def folder_of(folder, content, settings, model_type=None):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if model_type is not None:
        config = model_type if isinstance(model_type, dict) else {"model_type": model_type}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


BERT = {"tokenizer_class": "BertTokenizer"}
CASED = {"lowercase": False, "strip_accents": None, "handle_chinese_chars": True}
LOWER = {**CASED, "lowercase": True}


@pytest.mark.parametrize(
    ("written", "settings", "model_type", "holds"),
    [
        (LOWER, {**BERT, "do_lower_case": False}, None, CASED),
        (CASED, {**BERT, "do_lower_case": True}, None, LOWER),
        (CASED, {"tokenizer_class": "BertTokenizerFast"}, None, LOWER),
        (LOWER, {"do_lower_case": False}, "bert", CASED),
        (CASED, None, "bert", LOWER),
        (CASED, None, {"model_type": "roberta", **BERT}, LOWER),  # a class that config.json names
        (LOWER, {**BERT, "strip_accents": False}, None, {**LOWER, "strip_accents": False}),
        (
            LOWER,
            {**BERT, "tokenize_chinese_chars": False},
            None,
            {**LOWER, "handle_chinese_chars": False},
        ),
        # Another class, or none, has the rules of tokenizer.json.
        (CASED, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, None, CASED),
        (CASED, {"do_lower_case": True}, None, CASED),
        (CASED, None, None, CASED),
    ],
)
def test_a_berts_letters_are_as_tokenizer_config_says(
    word_piece, tmp_path, written, settings, model_type, holds
):
    content = {**word_piece, "normalizer": {**word_piece["normalizer"], **written}}
    tokenizer = find_tokenizer(folder_of(tmp_path, content, settings, model_type))
    content["normalizer"] |= holds
    expected = Tokenizer.from_str(json.dumps(content)).encode(TEXT).ids
    assert tokenizer.encode(TEXT) == expected
    assert tokenizer.graph().tokenize([TEXT], add_special=True).to_list() == [expected]
    tokenizer.save(tmp_path / "again")
    assert find_tokenizer(tmp_path / "again").encode(TEXT) == expected


@pytest.mark.parametrize(
    ("written", "settings", "holds"),
    [
        (False, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, True),
        (True, {"tokenizer_class": "GPT2Tokenizer"}, False),
        (True, {"tokenizer_class": "PreTrainedTokenizerFast"}, True),
    ],
)
def test_a_gpt2s_space_before_a_text_is_as_tokenizer_config_says(
    byte_pair, tmp_path, written, settings, holds
):
    level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    content = {**byte_pair, "pre_tokenizer": {**level, "add_prefix_space": written}}
    tokenizer = find_tokenizer(folder_of(tmp_path, content, settings))
    content["pre_tokenizer"]["add_prefix_space"] = holds
    assert tokenizer.encode(TEXT) == Tokenizer.from_str(json.dumps(content)).encode(TEXT).ids


@pytest.mark.parametrize(
    "space",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}},
        {
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "first",
                "split": False,
            }
        },
    ],
)
def test_a_llama_without_a_space_before_a_text_is_refused_where_the_files_differ(tmp_path, space):
    vocab = {token: i for i, token in enumerate(["</s>", "▁", "a"])}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    content = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "model": model,
        **space,
    }
    settings = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}
    assert with_class_rules(json.dumps(content), folder_of(tmp_path, content, settings))
    folder_of(tmp_path, content, {**settings, "add_prefix_space": False})
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: add_prefix_space is false"):
        find_tokenizer(tmp_path)
