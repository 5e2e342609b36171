"""Every accepted tokenizer.json gives the ids of the library `tokenizers`; others are refused.

This holds in Python, in a graph and in tf.data; a refusal names the reason."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from tokenizers import Tokenizer as Library

from tests.tokenizers import specifications
from tests.tokenizers.specifications import TOKENS, hard_batch
from tfllm.tokenizers import BytePairTokenizer, MetaspaceTokenizer, UnigramTokenizer, WordPiece

CLASSES = {
    "unigrams": UnigramTokenizer,
    "metaspaces": MetaspaceTokenizer,
    "byte_pairs": BytePairTokenizer,
    "word_pieces": WordPiece,
}
USUAL = [
    ("unigrams", "unigram-none-mbart"),
    ("unigrams", "unigram-t5-mbart"),
    ("word_pieces", "(True, None, True, True)"),
]
MORE = [
    ("unigrams", "unigram-xlm-r-unsplit"),
    ("unigrams", "unigram_bytes-none-metaspace"),
    ("metaspaces", "default-sentence_piece-metaspace"),
    ("byte_pairs", "qwen-NFC-False"),
    ("word_pieces", "(False, None, True, False)"),
]
REFUSED = {
    "unigrams": ["unigram-albert-mbart", "unigram-none-digits", "unigram-precompiled-first"],
    "metaspaces": ["bytes-none-mbart"],
    "byte_pairs": ["qwen-NFKC-False", "prefix-None-False"],
    "word_pieces": [],
}
ROUND = {
    "unigrams": ["unigram-quotes-never", "unigram_bytes-legacy-metaspace", "unigram-nfc-none"],
    "metaspaces": ["bytes-legacy-none", "bytes-spaces-gemma"],
    "byte_pairs": ["digits-None-True"],
    "word_pieces": ["(True, False, False, False)"],
}
MESSAGES = {
    "albert": "the normalizer 'NFKD'",
    "digits": "the pre-tokenizer Digits and Metaspace",
    "first": "prepend_scheme 'first'",
    "mbart": "the pre-tokenizer WhitespaceSplit and Metaspace",
    "NFKC": "the normalizer 'NFKC'",
    "prefix": "add_prefix_space",
}


def compare(kind: str, name: str, number: int, seed: int) -> None:
    content = dict(getattr(specifications, kind)())[name]
    tokenizer = CLASSES[kind](json.dumps(content))
    library = Library.from_str(json.dumps(content))
    batch = hard_batch(number, seed)
    expected = [library.encode(text).ids for text in batch]
    assert tokenizer.encode_batch(batch) == expected
    graph = tokenizer.graph()
    raw = [text.encode() for text in batch]
    for text, ids, theirs in zip(
        batch, graph.tokenize(tf.constant(raw)).to_list(), expected, strict=True
    ):
        assert ids == theirs, ascii(text)
    plain = graph.tokenize(tf.constant(raw), parse_special=False).to_list()
    assert tokenizer.encode_batch(batch, parse_special=False) == plain
    library.encode_special_tokens = True
    for text, ids in zip(batch, plain, strict=True):
        if not any(token in text for token in TOKENS):
            assert ids == library.encode(text).ids, ascii(text)
    decoded = graph.detokenize(tf.ragged.constant(expected, dtype=tf.int32)).numpy()
    assert [text.decode() for text in decoded] == [tokenizer.decode(ids) for ids in expected]


@pytest.mark.parametrize(
    ("kind", "name"), [*USUAL, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_ids_are_those_of_the_library(kind, name):
    compare(kind, name, number=150, seed=1)


def test_ids_are_the_same_in_tf_data():
    content = dict(specifications.unigrams())["unigram-none-mbart"]
    tokenizer = UnigramTokenizer(json.dumps(content))
    graph, batch = tokenizer.graph(), hard_batch(100, 3)
    raw = [text.encode() for text in batch]
    rows = tf.data.Dataset.from_tensor_slices(raw).batch(64).map(lambda x: graph.tokenize(x))
    ids = [row for part in rows for row in part.to_list()]
    assert ids == tokenizer.encode_batch(batch)
    split = tokenizer.encode("the\nfox\tthe\u00a0fox")
    assert split == tokenizer.encode("the fox the fox") and 0 not in split


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in REFUSED.items() for name in names]
)
def test_what_a_graph_cannot_do_is_refused_by_name(kind, name):
    content = dict(getattr(specifications, kind)())[name]
    message = next(MESSAGES[part] for part in name.split("-") if part in MESSAGES)
    tokenizer = CLASSES[kind](json.dumps(content))
    batch = hard_batch(50, 2)
    library = Library.from_str(json.dumps(content))
    assert tokenizer.encode_batch(batch) == [library.encode(text).ids for text in batch]
    with pytest.raises(ValueError, match=message):
        tokenizer.graph()


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_any_specification_is_followed_or_refused(kind):
    for name, content in getattr(specifications, kind)():
        try:
            CLASSES[kind](json.dumps(content)).graph()
        except ValueError as error:
            assert "which this tokenizer.json requires" in str(error), name
    for seed, name in enumerate(ROUND[kind]):
        compare(kind, name, number=60, seed=seed)
