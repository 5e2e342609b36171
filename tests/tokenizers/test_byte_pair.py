"""Byte-level BPE: training, files, and encoding in Python."""

import json
import logging
import os
import pickle
import subprocess
import sys

import pytest

from tests.tokenizers.samples import texts, trained
from tfllm.tokenizers import BytePairTokenizer, Tokenizer


def test_training_is_the_same_in_every_process():
    code = (
        "import hashlib\n"
        "from tests.tokenizers.samples import trained\n"
        "print(hashlib.sha256(trained('ours', 900).to_json().encode()).hexdigest())\n"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, threads in (("0", "1"), ("1", "2"), ("2", "3"))
    }
    assert len(hashes) == 1


def test_importing_and_encoding_does_not_import_tensorflow():
    code = (
        "import sys\n"
        "from tfllm.tokenizers import BytePairTokenizer\n"
        "t = BytePairTokenizer.train(['a b'], 300)\n"
        "t.decode(t.encode('a b'))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_text_comes_back():
    tokenizer = trained("ours")
    assert isinstance(tokenizer, Tokenizer)
    for text in [*texts(), "", "\0", "🏴‍☠️", "\U0010ffff", "𓀀"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_without_special_tokens_is_text():
    tokenizer = trained("ours")
    text = "a<|endoftext|>b"
    assert tokenizer.end_token_id in tokenizer.encode(text)
    plain = tokenizer.encode(text, parse_special=False)
    assert not set(plain) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(plain) == text
    assert tokenizer.encode_batch([text], parse_special=False) == [plain]
    assert tokenizer.decode(tokenizer.encode(text)) == "ab"
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_lone_surrogates_and_bytes_have_ids():
    tokenizer = trained("ours")
    assert tokenizer.encode("a\ud800b") == tokenizer.encode(b"a\xed\xa0\x80b")
    assert tokenizer.encode(b"\xff") == tokenizer.encode("\ufffd")


def test_ids_that_are_no_tokens_are_skipped():
    tokenizer = trained("ours")
    assert tokenizer.decode([-1, *tokenizer.encode("abc"), 10**6]) == "abc"


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_what_is_saved_is_loaded(tmp_path, name):
    tokenizer = BytePairTokenizer.train(texts(), 400, special_tokens=("<end>", "<|endoftext|>"))
    path = tmp_path / "new" / name if name else tmp_path / "new"
    tokenizer.save(path)
    loaded = BytePairTokenizer.load(path)
    assert loaded.encode_batch(texts()) == tokenizer.encode_batch(texts())
    assert loaded.vocab_size == tokenizer.vocab_size == 400
    assert loaded.special_tokens == {"<end>": 0, "<|endoftext|>": 1}
    if not name:
        assert loaded.end_token == "<end>"
    assert sorted(p.name for p in path.parent.rglob(".*")) == []  # nothing is left beside


def test_saving_keeps_the_other_settings_of_a_folder(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x", "eos_token": "y"}')
    trained("ours").save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    assert settings == {"chat_template": "x", "eos_token": "<|endoftext|>", **inputs}


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    trained("ours").save(path)
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trained("gpt2").save(path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("file", "settings", "expected"),
    [
        ("tokenizer_config.json", {"eos_token": "<|im_end|>"}, "<|im_end|>"),
        ("tokenizer_config.json", {"eos_token": {"content": "<|im_end|>"}}, "<|im_end|>"),
        ("generation_config.json", {"eos_token_id": [2, 1]}, "<|im_end|>"),
        ("config.json", {"eos_token_id": 1}, "<|im_start|>"),
        ("config.json", {"eos_token_id": None}, "<|endoftext|>"),
    ],
)
def test_the_end_token_is_what_the_folder_says(tmp_path, file, settings, expected):
    trained("ours").save(tmp_path / "tokenizer.json")
    (tmp_path / file).write_text(json.dumps(settings))
    assert BytePairTokenizer.load(tmp_path).end_token == expected


def test_all_ids_that_the_folder_ends_a_text_with_are_known(tmp_path):
    trained("ours").save(tmp_path)
    assert BytePairTokenizer.load(tmp_path).end_token_ids == (0,)
    for ids, expected in (
        ([2, 1], (0, 2, 1)),
        ([1, 0, 1], (0, 1)),
        ([10**6, -1, None, 2], (0, 2)),
        (-1, (0,)),
    ):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        assert BytePairTokenizer.load(tmp_path).end_token_ids == expected
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')  # asked where the other is silent
    assert BytePairTokenizer.load(tmp_path).end_token_ids == (0, 1)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    assert BytePairTokenizer.load(tmp_path).end_token_ids == (2, 1)


def test_pickling_keeps_the_tokenizer():
    tokenizer = trained("ours")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_batch(texts()) == tokenizer.encode_batch(texts())
    assert copy.end_token_id == tokenizer.end_token_id


def test_a_small_text_gives_a_smaller_tokenizer_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "tfllm"):
        tokenizer = BytePairTokenizer.train(iter(["to be or not to be"]), 5000)
    assert tokenizer.vocab_size < 300
    assert "too small for a vocabulary of 5000 tokens" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 256}, "vocab_size must be at least 257 .*; received 256"),
        ({"vocab_size": 300, "special_tokens": ()}, "special_tokens must name at least one"),
        ({"vocab_size": 300, "special_tokens": ("a", "a")}, "each once"),
        ({"vocab_size": 300, "split_pattern": "("}, "split_pattern must be a regular expression"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer.train(["a"], **arguments)


def test_one_text_instead_of_several_is_refused():
    with pytest.raises(ValueError, match="put it in \\[\\]"):
        BytePairTokenizer.train("a text", 300)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 1}', "\ud800"])
def test_files_that_are_no_tokenizer_are_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        BytePairTokenizer.load(tmp_path)


def test_other_models_and_missing_files_are_refused(tmp_path):
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers import models

    RustTokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="must be BPE; received WordLevel"):
        BytePairTokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no tokenizer"):
        BytePairTokenizer.load(tmp_path / "nowhere")


def test_a_tokenizer_without_an_end_token_says_so():
    settings = json.loads(trained("ours").to_json())
    settings["added_tokens"] = []
    tokenizer = BytePairTokenizer(json.dumps(settings))
    with pytest.raises(ValueError, match="does not say which token ends a document"):
        _ = tokenizer.end_token
    with pytest.raises(ValueError, match="end_token must be a token"):
        BytePairTokenizer(json.dumps(settings), end_token="<nothing>")
