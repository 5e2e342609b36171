"""T5's and Marian's tokenizers compared with `transformers`.

See record_translation_tokenizers.py.
"""

from __future__ import annotations

import functools
import json
import pickle
import shutil

import pytest
import tensorflow as tf
from tokenizers import Tokenizer as Library

from tests.tokenizers.record_translation_tokenizers import FOLDER
from tests.tokenizers.sentence_pieces import hard_texts
from tfllm.pretrained import load_tokenizer
from tfllm.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    UnigramTokenizer,
)


@functools.cache
def recorded():
    return json.loads((FOLDER / "recorded.json").read_text())


def known(name):
    """The tokenizer, texts, their ids, and the texts that those are again."""
    values = recorded()[name.partition("_")[0]]
    tokenizer = load_tokenizer(FOLDER / name.partition("_")[0])
    if name == "marian_target":
        return (
            tokenizer.target,
            values["texts"],
            values["target_ids"],
            values["target_decoded"],
        )
    return tokenizer, values["texts"], values["ids"], values["decoded"]


NAMES = ["t5", "marian", "marian_target"]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_texts_are_those_of_transformers(name):
    tokenizer, texts, ids, decoded = known(name)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode_batch(texts) == ids
    assert [tokenizer.decode(row) for row in ids] == decoded


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_gives_the_same(name):
    tokenizer, texts, ids, _ = known(name)
    graph = tokenizer.graph()
    assert graph.tokenize(tf.constant(texts)).to_list() == ids
    plain = tokenizer.encode_batch(texts, parse_special=False, add_special=False)
    given = graph.tokenize(tf.constant(texts), parse_special=False, add_special=False)
    assert given.to_list() == plain
    assert all(set(row).isdisjoint(tokenizer.end_token_ids) for row in plain)
    decoded = [text.decode() for text in graph.detokenize(tf.ragged.constant(ids)).numpy()]
    assert decoded == [tokenizer.decode(row) for row in ids]
    broken = [b"\xff", b"a\xe4\xbd", "a\ud800b".encode("utf-8", "surrogatepass")]
    assert graph.tokenize(tf.constant(broken)).to_list() == tokenizer.encode_batch(broken)


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_that_are_broken_and_put_together_again(name):
    tokenizer = known(name)[0]
    batch = [*hard_texts(200, seed=3), "a </\ufdd0s> b</s>", "\ufdd0>>fr\ufdd0<< the"]
    unbroken = tokenizer.graph().tokenize_unbroken(tf.constant(batch)).to_list()
    assert unbroken == [tokenizer.encode_unbroken(text)[0] for text in batch]
    for text in batch:
        _, begins = tokenizer.encode_unbroken(text)
        assert begins == sorted(begins) and all(0 <= b < len(text) for b in begins)


def test_a_file_of_sentencepiece_is_t5s_where_the_folder_says_so(tmp_path):
    """Ids are those of its tokenizer.json but at U+0085, no white space to SentencePiece."""
    shutil.copy(FOLDER / "t5" / "spiece.model", tmp_path)
    assert load_tokenizer(tmp_path).encode("the") == known("t5")[0].encode("the")[:-1]
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    tokenizer, texts, ids, _ = load_tokenizer(tmp_path), *known("t5")[1:]
    assert isinstance(tokenizer, SentencePieceTokenizer)
    for text, row in zip(texts, ids, strict=True):
        assert tokenizer.encode(text) == row or "\x85" in text
    assert (tokenizer.vocab_size, tokenizer.end_token) == (known("t5")[0].vocab_size, "</s>")
    saved = tmp_path / "saved"
    tokenizer.save(saved)
    assert (saved / "spiece.model").exists()
    settings = json.loads((saved / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "T5Tokenizer" and settings["extra_ids"] == 100
    for other in (load_tokenizer(saved), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode_batch(texts) == tokenizer.encode_batch(texts)
        other.save(tmp_path / "again")
        assert (tmp_path / "again" / "spiece.model").exists()


def test_a_folder_may_say_how_many_tokens_stand_for_gaps(tmp_path):
    shutil.copy(FOLDER / "t5" / "spiece.model", tmp_path)
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 3}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.token_id("<extra_id_0>") == tokenizer.vocab_size - 1 == 282
    settings["extra_ids"] = "many"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"extra_ids .* must be a number"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_or_pickled_is_the_same_tokenizer(name, tmp_path):
    tokenizer, texts, ids, _ = known(name)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    if name == "marian_target":
        loaded = loaded.target
    for other in (loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert type(other) is type(tokenizer)
        assert other.encode_batch(texts) == ids
        assert other.end_token_ids == tokenizer.end_token_ids


def test_both_sides_of_marian_share_their_ids():
    tokenizer = known("marian")[0]
    target = tokenizer.target
    assert target is tokenizer.target is tokenizer.target.target
    assert known("t5")[0].target is not None
    _, texts, ids, _ = known("marian")
    others = target.encode_batch(texts)
    assert sum(a != b for a, b in zip(ids, others, strict=True)) > 10
    assert [target.decode(row) for row in ids] == [tokenizer.decode(row) for row in ids]


def test_marian_files_that_are_missing_or_do_not_fit_are_named(tmp_path):
    folder = tmp_path / "marian"
    shutil.copytree(FOLDER / "marian", folder)
    (folder / "target.spm").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no target\.spm"):
        load_tokenizer(folder)
    shutil.copy(FOLDER / "marian" / "target.spm", folder)
    (folder / "vocab.json").write_text('{"</s>": 0, "a": 2}')
    with pytest.raises(ValueError, match=r"vocab\.json must number"):
        load_tokenizer(folder)
    (folder / "vocab.json").write_text('{"</s>": 0, "a": 1}')
    with pytest.raises(ValueError, match=r"vocab\.json must hold <unk>, <pad>"):
        load_tokenizer(folder)
    shutil.copy(FOLDER / "marian" / "vocab.json", folder)
    (folder / "tokenizer_config.json").write_text('{"separate_vocabs": true}')
    with pytest.raises(ValueError, match="separate_vocabs is only supported as False"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "source.spm").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"source\.spm: not a SentencePiece model"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("normalizer", {"type": "Lowercase"}, "the normalizer 'Lowercase'"),
        ("pre_tokenizer", {"type": "Whitespace"}, "the pre-tokenizer Whitespace"),
    ],
)
def test_a_unigram_that_the_graph_cannot_do_is_refused_there_alone(part, value, message, tmp_path):
    content = json.loads((FOLDER / "t5" / "tokenizer.json").read_text())
    content[part] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, UnigramTokenizer)
    assert (
        tokenizer.encode("The fox") == Library.from_str(tokenizer.to_json()).encode("The fox").ids
    )
    with pytest.raises(ValueError, match=message):
        tokenizer.graph()


def test_a_decoder_that_is_not_sentencepieces_is_refused(tmp_path):
    content = json.loads((FOLDER / "t5" / "tokenizer.json").read_text())
    content["decoder"] = {"type": "BPEDecoder", "suffix": "x"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the decoder BPEDecoder"):
        load_tokenizer(tmp_path)


def test_a_special_token_in_other_characters_stays_text():
    """`tokenizers` would read what U+FF1C and U+FF1E are normalized to as the token."""
    tokenizer = known("t5")[0]
    for text in ("\uff1c/s\uff1e", "<\u200b/s>"):
        ids = tokenizer.encode(text, add_special=False)
        assert tokenizer.end_token_id not in ids
        assert tokenizer.graph().tokenize([text], add_special=False).to_list() == [ids]


@pytest.mark.parametrize("name", ["t5", "marian"])
def test_a_model_folder_keeps_its_tokenizer(name, tmp_path):
    from tfllm import pretrained
    from tfllm.models.encoder_decoder import EncoderDecoder
    from tfllm.models.sizes import size

    tokenizer, texts, ids, _ = known(name)
    start = tokenizer.token_id("<pad>")
    config = size(
        "t5-small" if name == "t5" else "transformer-tiny",
        **{"vocab_size": 400, "embedding_dim": 8, "num_heads": 2, "head_dim": 4},
        **{"num_layers": 1, "num_decoder_layers": 1, "feed_forward_dim": 8},
        **{"decoder_start_token_id": start},
        never_generated=() if name == "t5" else (start,),
    )
    folder = pretrained.save(EncoderDecoder(config), tmp_path / "model", tokenizer)
    values = json.loads((folder / "config.json").read_text())
    assert (values["pad_token_id"], values["eos_token_id"]) == (start, tokenizer.end_token_id)
    for _ in range(2):  # a folder that tfllm wrote is replaced
        loaded = pretrained.load(folder)
        assert loaded.model.config == config
        assert type(loaded.tokenizer) is type(tokenizer)
        assert loaded.tokenizer.encode_batch(texts) == ids
        pretrained.save(loaded.model, folder, loaded.tokenizer, generation=loaded.generation)
