"""Choosing the tokenizer class for a folder or a file; reading and writing model folders."""

import base64
import json
import zlib
from pathlib import Path

import pytest
import tensorflow as tf
from tokenizers import Tokenizer as Library

from tests.tokenizers import metaspace_tokenizers
from tests.tokenizers.samples import trained
from tests.tokenizers.sentence_pieces import hard_texts, trained_model
from tfllm.pretrained import load_tokenizer
from tfllm.tokenizers import BytePairTokenizer, SentencePieceTokenizer, UnigramTokenizer
from tfllm.tokenizers.reading import find_tokenizer, read_tokenizer

TRANSFORMERS = json.loads(Path(__file__).with_name("transformers_ids.json").read_text())


def one_of_each() -> list:
    return [
        trained("ours"),
        metaspace_tokenizers.named("legacy"),
        SentencePieceTokenizer(trained_model("bytes"), begin=[1]),
        SentencePieceTokenizer(trained_model("unigram")),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_tokenizer_is_found_again(tmp_path, number):
    tokenizer = one_of_each()[number]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.encode("the fox</s>") == tokenizer.encode("the fox</s>")
    assert loaded.end_token_id == tokenizer.end_token_id
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_unigram_in_a_tokenizer_json(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    library = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581", -2.0), ("\u2581a", -1.0)], 0))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, UnigramTokenizer)
    ids = library.encode("a ab").ids
    assert tokenizer.encode("a ab") == ids
    assert tokenizer.decode([2, 2]) == "a a"
    assert tokenizer.graph().tokenize(["a ab"]).to_list() == [ids]


def test_tokenizer_json_comes_before_a_model_file(tmp_path):
    SentencePieceTokenizer(trained_model("bytes")).save(tmp_path / "tokenizer.model")
    trained("ours").save(tmp_path / "tokenizer.json")
    assert isinstance(load_tokenizer(tmp_path), BytePairTokenizer)
    assert isinstance(read_tokenizer(tmp_path / "tokenizer.model"), SentencePieceTokenizer)
    assert find_tokenizer(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["bytes", "default", "user_defined", "unigram_bytes"])
def test_the_tokenizer_json_beside_a_model_says_the_same(name, tmp_path):
    tokenizer = SentencePieceTokenizer(trained_model(name), begin=[1])
    tokenizer.save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer)
    # SentencePiece's table at graphemes, and the bytes of a text, are others to it.
    batch = [t for t in hard_texts(200) if "\u0301" not in t and "<0x41>" not in t]
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    if name != "user_defined":
        assert [library.encode(text).ids for text in batch] == tokenizer.encode_batch(batch)
    assert library.encode("the fox\n").ids == tokenizer.encode("the fox\n")
    (tmp_path / "tokenizer.model").unlink()
    assert load_tokenizer(tmp_path).encode("the fox") == tokenizer.encode("the fox")


def test_a_class_with_rules_of_its_own_is_not_written(tmp_path):
    """transformers' LlamaTokenizer would put other rules in the place of the files'."""
    for tokenizer in one_of_each()[1:3]:
        tokenizer.save(tmp_path)
        config = tmp_path / "tokenizer_config.json"
        settings = json.loads(config.read_text()) | {"tokenizer_class": "LlamaTokenizer"}
        config.write_text(json.dumps(settings))
        loaded = load_tokenizer(tmp_path)
        assert loaded.settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert loaded.settings["bos_token"] == "<s>"  # of that class, where no file names one


@pytest.mark.parametrize("name", ["tokenizer.pkl", "tokenizer.pt"])
def test_a_pickle_is_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    with pytest.raises(ValueError, match="is not opened, since loading a pickle"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a tokenizer.json"),
        ("{", "not a tokenizer.json"),
        ('{"model": {"type": "WordLevel"}}', "must be BPE, Unigram or WordPiece; received WordL"),
        ('{"model": {"type": "BPE"}, "decoder": {"type": "Fuse"}}', "tokenizer.json"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_no_tokenizer_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", TRANSFORMERS["folders"])
def test_folders_of_an_earlier_version_have_the_ids_of_transformers(name, tmp_path):
    """Recorded when no tokenizer.json was written beside a tokenizer.model."""
    recorded = TRANSFORMERS["folders"][name]
    files = {f: zlib.decompress(base64.b64decode(c)) for f, c in recorded["files"].items()}
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    tokenizer = load_tokenizer(tmp_path)
    batch = TRANSFORMERS["texts"]
    assert tokenizer.encode_batch(batch) == recorded["ids"]
    assert tokenizer.graph().tokenize(tf.constant(batch)).to_list() == recorded["ids"]
    if name in ("bytes", "first", "metaspace_legacy", "metaspace_first"):
        assert [tokenizer.decode(ids) for ids in recorded["ids"]] == recorded["decoded"]
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").encode_batch(batch) == recorded["ids"]
    for file in {*files} - {"tokenizer_config.json"}:
        assert (tmp_path / "again" / file).read_bytes() == files[file]
