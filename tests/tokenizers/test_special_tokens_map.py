"""special_tokens_map.json, with the same precedence as in `transformers`."""

import json

import pytest

from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.chat.chat_template import ChatTemplate
from tfllm.tokenizers.stored_tokenizer import read_settings

SPECIAL = ("<|end|>", "<|begin|>", "<|pad|>", "<|other|>")


@pytest.fixture
def folder(tmp_path):
    """A tokenizer that no other file says anything of."""
    tokenizer = BytePairTokenizer.train(["the cat sat"] * 9, 270, special_tokens=SPECIAL)
    tokenizer.save(tmp_path / "tokenizer.json")
    return tmp_path


def write(folder, name, **values):
    (folder / name).write_text(json.dumps(values))


def test_it_names_special_tokens_as_text_or_as_objects(folder):
    turns = [{"content": "<|other|>", "lstrip": False}, "<|pad|>"]
    begin = {"content": "<|begin|>", "lstrip": False, "normalized": False}
    write(
        folder,
        "special_tokens_map.json",
        bos_token=begin,
        eos_token="<|other|>",
        additional_special_tokens=turns,
    )
    tokenizer = BytePairTokenizer.load(folder)
    assert tokenizer.end_token == "<|other|>"
    assert tokenizer.settings == {"bos_token": begin, "additional_special_tokens": turns}
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", special_tokens=SPECIAL)
    tokenizer.settings["chat_template"] = template.source
    rendered = ChatTemplate.of(tokenizer).render([{"role": "user", "content": "x"}])
    assert rendered == "<|begin|>x"


def test_it_comes_before_tokenizer_config_unless_that_lists_its_tokens(folder):
    write(folder, "special_tokens_map.json", bos_token="<|begin|>", eos_token="<|other|>")
    write(folder, "tokenizer_config.json", bos_token="<|pad|>", eos_token="<|end|>")
    settings = read_settings(folder)
    assert (settings["bos_token"], settings["eos_token"]) == ("<|begin|>", "<|other|>")
    listed = {"0": {"content": "<|end|>", "special": True}}
    write(folder, "tokenizer_config.json", eos_token="<|end|>", added_tokens_decoder=listed)
    assert BytePairTokenizer.load(folder).end_token == "<|end|>"
    assert "bos_token" not in read_settings(folder)


@pytest.mark.parametrize("wrong", [3, {"lstrip": True}, ["<|end|>", 4]])
def test_what_is_no_token_is_refused(folder, wrong):
    write(folder, "special_tokens_map.json", bos_token=wrong)
    with pytest.raises(ValueError, match=r"special_tokens_map\.json: bos_token must be a token"):
        BytePairTokenizer.load(folder)


def test_templates_beside_the_first_are_read(folder):
    (folder / "chat_template.jinja").write_text("first")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("second")
    tokenizer = BytePairTokenizer.load(folder)
    assert tokenizer.settings["chat_template"] == {"default": "first", "tool_use": "second"}
    assert ChatTemplate.of(tokenizer).source == "first"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}},
        {"vocab.json": {"a": 0}, "merges.txt": "x"},
        {"tekken.json": "x"},
    ],
)
def test_a_tokenizer_whose_files_are_missing_is_an_error(tmp_path, files):
    from tests.pretrained.conftest import REFERENCES
    from tfllm import pretrained

    for source in ("config.json", "model.safetensors"):
        (tmp_path / source).write_bytes((REFERENCES / "llama_tied" / source).read_bytes())
    assert pretrained.load(tmp_path).tokenizer is None
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    name = "for a LlamaTokenizer" if "tokenizer_config.json" in files else next(iter(files))
    with pytest.raises(FileNotFoundError, match=rf"has .*{name}.*none of the files.*tokenizer\.js"):
        pretrained.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "begin"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, "<|endoftext|>"),
        ({"tokenizer_class": "GPTNeoXTokenizerFast"}, "<|endoftext|>"),
        ({"tokenizer_class": "CodeGenTokenizer"}, "<|endoftext|>"),
        ({"tokenizer_class": "GemmaTokenizerFast"}, "<bos>"),
        ({"tokenizer_class": "CohereTokenizer"}, None),  # whose <BOS_TOKEN> is no token here
        ({"tokenizer_class": "Qwen2Tokenizer"}, None),
        ({"tokenizer_class": "LlamaTokenizer"}, None),  # bytes are no Llama's tokens
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"tokenizer_class": "GPT2Tokenizer", "bos_token": None}, None),
        ({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}, "<s>"),
        ({}, None),
    ],
    ids=str,
)
def test_a_class_has_a_begin_token_of_its_own_where_the_files_name_none(tmp_path, settings, begin):
    """As AutoTokenizer of transformers 4.57.6 and 5.24.0 gives it, of these tokens."""
    special = ("<|endoftext|>", "<s>", "<bos>")
    tokenizer = BytePairTokenizer.train(["the cat sat"] * 9, 270, special_tokens=special)
    tokenizer.save(tmp_path / "tokenizer.json")
    write(tmp_path, "tokenizer_config.json", **settings)
    loaded = BytePairTokenizer.load(tmp_path)
    assert loaded.settings.get("bos_token") == begin
    loaded.save(tmp_path / "again")
    assert BytePairTokenizer.load(tmp_path / "again").settings.get("bos_token") == begin


@pytest.mark.parametrize(
    ("config", "settings", "begin"),  # as transformers 5.24 has it
    [
        ({"model_type": "gpt2"}, {}, "<|endoftext|>"),
        ({"model_type": "gpt2"}, {"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"model_type": "gpt2"}, {"bos_token": "<|begin|>"}, "<|begin|>"),
        ({"model_type": "llama"}, {}, None),
        ({"model_type": "qwen2"}, {"model_max_length": 9}, None),
        ({"model_type": "llama", "tokenizer_class": "GPT2Tokenizer"}, {}, "<|endoftext|>"),
    ],
)
def test_the_begin_token_of_a_class_that_no_file_names(tmp_path, config, settings, begin):
    special = ("<|endoftext|>", "<|begin|>", "<s>")
    tokenizer = BytePairTokenizer.train(["the cat sat"] * 9, 270, special_tokens=special)
    tokenizer.save(tmp_path / "tokenizer.json")
    write(tmp_path, "config.json", **config)
    write(tmp_path, "tokenizer_config.json", **settings)
    loaded = BytePairTokenizer.load(tmp_path)
    assert loaded.settings.get("bos_token") == begin
    assert loaded.encode("the cat") == tokenizer.encode("the cat")


def test_special_tokens_that_are_to_be_split_are_refused(folder):
    write(folder, "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(ValueError, match="split_special_tokens must be false; received True"):
        BytePairTokenizer.load(folder)
    write(folder, "tokenizer_config.json", split_special_tokens=False)
    assert BytePairTokenizer.load(folder).encode("<|end|>") == [0]
