"""Whatever tokenizer.json is accepted has the ids of the library `tokenizers`: in Python, in a
graph and in tf.data; everything else is refused by name."""

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
USUAL = {
    "unigrams": [
        *("unigram-none-mbart", "unigram-t5-mbart", "unigram-xlm-r-unsplit"),
        *("unigram_bytes-quotes-never", "unigram_bytes-none-metaspace"),
    ],
    "metaspaces": ["bytes-legacy-none", "default-sentence_piece-metaspace"],
    "byte_pairs": ["qwen-NFC-False", "ours-None-True"],
    "word_pieces": ["(True, None, True, True)", "(False, None, True, False)"],
}
REFUSED = {
    "unigrams": ["unigram-albert-mbart", "unigram-none-digits", "unigram-precompiled-first"],
    "metaspaces": ["bytes-none-mbart"],
    "byte_pairs": ["qwen-NFKC-False", "prefix-None-False"],
    "word_pieces": [],
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
    rows = tf.data.Dataset.from_tensor_slices(raw).batch(64).map(graph.tokenize)
    assert [ids for row in rows for ids in row.to_list()] == expected


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in USUAL.items() for name in names]
)
def test_ids_are_those_of_the_library(kind, name):
    compare(kind, name, number=150, seed=1)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in REFUSED.items() for name in names]
)
def test_what_a_graph_cannot_do_is_refused_by_name(kind, name):
    content = dict(getattr(specifications, kind)())[name]
    message = next(MESSAGES[part] for part in name.split("-")[::-1] if part in MESSAGES)
    tokenizer = CLASSES[kind](json.dumps(content))
    batch = hard_batch(50, 2)
    library = Library.from_str(json.dumps(content))
    assert tokenizer.encode_batch(batch) == [library.encode(text).ids for text in batch]
    with pytest.raises(ValueError, match=message):
        tokenizer.graph()


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_any_specification_is_followed_or_refused(kind):
    names = [name for name, _ in getattr(specifications, kind)()]
    followed = 0
    for seed, name in enumerate(names[seed_of(kind) :: 7]):
        content = dict(getattr(specifications, kind)())[name]
        try:
            CLASSES[kind](json.dumps(content)).graph()
        except ValueError as error:
            assert "which this tokenizer.json asks for" in str(error), name
        else:
            compare(kind, name, number=60, seed=seed)
            followed += 1
    assert followed >= 2


def seed_of(kind: str) -> int:
    """Another row of the table for each kind."""
    return len(kind) % 3
