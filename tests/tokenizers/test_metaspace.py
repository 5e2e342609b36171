"""A tokenizer.json made from a SentencePiece model, compared with the library `tokenizers`."""

import itertools
import json
import random

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from tests.tokenizers.metaspace_tokenizers import (
    DECODERS,
    LEGACY,
    RULES,
    SPACE,
    STRIP,
    content,
    made,
    metaspace,
    named,
    regex,
)
from tests.tokenizers.samples import texts
from tests.tokenizers.sentence_pieces import PARTS, hard_texts
from tfllm.tokenizers import MetaspaceTokenizer, Tokenizer
from tfllm.tokenizers.graph import merge_loop


def assert_same_ids(tokenizer, batch: list[str | bytes], **options) -> None:
    raw = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in batch]
    ids = tokenizer.graph().tokenize(tf.constant(raw, tf.string), **options)
    expected = tokenizer.encode_batch(batch, **options)
    for text, ours, theirs in zip(batch, ids.to_list(), expected, strict=True):
        assert ours == theirs, text
    decoded = tokenizer.graph().detokenize(ids).numpy()
    assert [t.decode() for t in decoded] == [tokenizer.decode(row) for row in expected]


@pytest.mark.parametrize(
    ("rules", "model"),
    [*((r, "bytes") for r in RULES), ("legacy", "default"), ("split", "default")],
)
def test_graph_gives_the_ids_of_the_library(rules, model):
    tokenizer = named(rules, model)
    assert isinstance(tokenizer, Tokenizer)
    batch = hard_texts(500)
    assert_same_ids(tokenizer, batch)
    if rules == "legacy":
        assert_same_ids(tokenizer, batch, parse_special=False)


@pytest.mark.parametrize("rules", ["legacy", "split"])
def test_special_tokens_that_are_broken_and_put_together_again(rules):
    tokenizer, batch = named(rules), hard_texts(500, seed=3)
    unbroken = tokenizer.graph().tokenize_unbroken(tf.constant(batch)).to_list()
    assert unbroken == [tokenizer.encode_unbroken(text)[0] for text in batch]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    st.lists(
        st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PARTS), max_size=12).map("".join)),
        min_size=1,
        max_size=30,
    )
)
def test_any_text(batch):
    for rules in ("legacy", "first", "split"):
        assert_same_ids(named(rules), batch)


def test_every_short_text_over_characters_of_each_kind():
    kinds = ["a", "t", "h", " ", SPACE, "\n", "中", "<s>"]
    batch = ["".join(t) for n in range(5) for t in itertools.product(kinds, repeat=n)]
    assert_same_ids(named("legacy"), batch)


def test_empty_batches_and_bytes_that_are_not_utf8():
    tokenizer = named("legacy")
    assert tokenizer.graph().tokenize(tf.zeros([0], tf.string)).to_list() == []
    assert_same_ids(tokenizer, ["", "", "a", ""])
    assert_same_ids(tokenizer, [b"\xff", b"a\xe4\xbd", "a\ud800b", b"\x80<s>\xf0\x9f\0"])


@pytest.mark.parametrize("long", [0, merge_loop._LONG])
@pytest.mark.parametrize("seed", range(2))
def test_merges_in_any_order(seed, long, monkeypatch):
    """SentencePiece's kernel could not do this: pairs that make one piece have several ranks."""
    monkeypatch.setattr(merge_loop, "_LONG", long)
    chance = random.Random(seed)
    merges = json.loads(content())["model"]["merges"]
    chance.shuffle(merges)
    tokenizer = made(model_settings={"merges": merges}, normalizer=LEGACY)
    letters = [chance.choice("the aofx ") for _ in range(20_000)]
    batch = ["".join(chance.choices("theaofx ", k=chance.randint(1, 60))) for _ in range(300)]
    assert_same_ids(tokenizer, [*batch, "".join(letters), " " * 2000, *texts()[:30]])


def test_a_word_of_the_vocabulary_may_skip_the_merges():
    values = json.loads(content())["model"]
    vocab = {**values["vocab"], SPACE + "qzqz": len(values["vocab"])}
    for split in (False, True):
        tokenizer = made(
            model_settings={"vocab": vocab, "ignore_merges": True},
            pre_tokenizer=metaspace("always", split=split),
        )
        assert tokenizer.encode("qzqz") == [len(vocab) - 1]
        assert_same_ids(tokenizer, ["qzqz", "a qzqz", "qzqz the", "qzqzq", "<0x41>", *texts()[:20]])


def test_added_tokens_before_and_after_normalization():
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    tokens = [
        ("<s>", True, False, {}), ("<x>", False, True, {}), ("the", False, True, {}),
        ("<l>", True, False, {"lstrip": True}), ("<r>", False, False, {"rstrip": True}),
        (f"a{SPACE}b", False, True, {}), ("n", True, True, {}),
    ]  # fmt: skip
    added = [
        {"id": 600 + i, "content": c, "special": s, "normalized": n, **flags, **more}
        for i, (c, s, n, more) in enumerate(tokens)
    ]
    pieces = ["<x>", "<s>", " the", "<l>", "<r>", " ", "n"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(pieces, repeat=n)]
    for rules in ("legacy", "first"):
        tokenizer = made(added_tokens=added, **RULES[rules])
        assert_same_ids(tokenizer, batch)
        assert_same_ids(tokenizer, batch, parse_special=False)


def test_tokens_that_the_template_puts_around_a_text():
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }  # fmt: skip
    tokenizer = made(normalizer=LEGACY, post_processor=template)
    assert tokenizer.encode("") == [1] and tokenizer.encode("the")[0] == 1
    assert_same_ids(tokenizer, ["", "the fox", "<s>"])
    assert_same_ids(tokenizer, ["", "the fox", "<s>"], add_special=False)


@pytest.mark.parametrize(
    ("decoders", "expected"),
    [
        ([*DECODERS, STRIP], "the fox"),
        (DECODERS, " the fox"),
        ([metaspace("always")], "the fox"),
        ([metaspace("never")], " the fox"),
    ],
)
def test_decoding_gives_the_text_of_the_library(decoders, expected):
    falls_back = decoders[0]["type"] != "Metaspace"
    tokenizer = made(
        "bytes" if falls_back else "default",
        normalizer=LEGACY,
        decoder={"type": "Sequence", "decoders": decoders},
    )
    assert tokenizer.decode(tokenizer.encode("the fox")) == expected
    rows = [*tokenizer.encode_batch(hard_texts(200)), [], [1, 2]]
    rows += [row[::-1] for row in rows[:100]] + [row[3:6] for row in rows]
    library = Library.from_str(tokenizer.to_json())
    rows = [row for row in rows if "\ufffd" not in library.decode(row)]
    assert [tokenizer.decode(row) for row in rows] == [library.decode(row) for row in rows]
    decoded = tokenizer.graph().detokenize(tf.ragged.constant(rows, tf.int32)).numpy()
    assert [t.decode() for t in decoded] == [tokenizer.decode(row) for row in rows]
    whole = [row for row in rows if row][5]
    kept = library.decode([1, *whole], skip_special_tokens=False)
    assert tokenizer.decode([1, *whole], skip_special=False) == kept


def test_streamed_bytes_are_the_text_that_runs_on():
    tokenizer = named("legacy")
    token_bytes = tokenizer.graph().token_bytes.numpy()
    prompt, answer = tokenizer.encode("the fox"), tokenizer.encode("jumps over 🎉\n")
    streamed = b"".join(token_bytes[i] for i in answer).decode()
    assert streamed == " jumps over 🎉\n"
    assert tokenizer.decode([*prompt, *answer]) == tokenizer.decode(prompt) + streamed
    assert token_bytes[0] == token_bytes[1] == token_bytes[2] == b""


def test_what_is_saved_is_loaded(tmp_path):
    tokenizer = named("legacy")
    tokenizer.save(tmp_path)
    loaded = MetaspaceTokenizer.load(tmp_path)
    assert loaded.encode_batch(texts()) == tokenizer.encode_batch(texts())
    assert loaded.end_token == "</s>" and loaded.special_tokens == tokenizer.special_tokens


def test_graph_is_saved_and_loaded(tmp_path):
    tokenizer = made(normalizer=LEGACY)
    module = tf.Module()
    module.tokenizer = tokenizer.graph()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(text):
        return {"ids": module.tokenizer.tokenize(text).to_tensor(-1)}

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    loaded = tf.saved_model.load(str(tmp_path))
    batch = ["Hello, wörld 123", "", "<s>中文\n\n</s> x", "a\0b"]
    ids = loaded.signatures["serving_default"](tf.constant(batch))["ids"].numpy().tolist()
    assert [[i for i in row if i >= 0] for row in ids] == tokenizer.encode_batch(batch)
    nodes = serve.get_concrete_function().graph.as_graph_def()
    every = [*nodes.node, *(n for f in nodes.library.function for n in f.node_def)]
    assert not [n.op for n in every if "Table" in n.op or n.op.startswith(("PyFunc", "EagerPy"))]
    assert max(len(n.attr["value"].tensor.tensor_content) for n in every if n.op == "Const") < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"normalizer": regex("a+", "b")}, r"Replace of 'a\+'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [metaspace(), metaspace()]}},
         "Metaspace and Metaspace"),
        ({"model_settings": {"dropout": 0.1}}, "dropout"),
        ({"model_settings": {"unk_token": None}, "model": "default"}, "no unk_token"),
        ({"model_settings": {"fuse_unk": False}, "model": "default"}, "fuse_unk"),
        ({"model_settings": {"merges": [["<0x41>", "a"]], "vocab": {"<0x41>a": 600}}}, "bytes"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_do_is_refused_by_name(change, message):
    change = dict(change)
    if "vocab" in change.get("model_settings", {}):
        vocab = {**json.loads(content())["model"]["vocab"], **change["model_settings"]["vocab"]}
        change["model_settings"] = {**change["model_settings"], "vocab": vocab}
    tokenizer = made(**change)
    assert isinstance(tokenizer.encode("some text"), list)  # the library still does it
    with pytest.raises(ValueError, match=message):
        tokenizer.graph()


def test_a_decoder_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="decoder WordPiece"):
        made(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
