"""The tokenizer in the graph compared with the `tokenizers` library."""

import itertools
import json
import random

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizers.hard_parts import TEXTS_OF_PARTS
from tests.tokenizers.samples import (
    SPLIT_PATTERNS,
    assert_same_ids,
    byte_level,
    changed,
    split,
    texts,
    trained,
    with_pre_tokenizer,
)
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.graph import merge_loop
from tfllm.tokenizers.graph.byte_pair_graph import BytePairGraph
from tfllm.tokenizers.graph.merge_loop import MergeLoop
from tfllm.tokenizers.specification.byte_pair_specification import read_specification

any_text = st.text(max_size=20)
batches = st.lists(st.one_of(TEXTS_OF_PARTS, any_text), min_size=1, max_size=30)
quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.mark.parametrize("name", SPLIT_PATTERNS)
def test_graph_gives_the_ids_of_the_library(name):
    @quick
    @given(batches)
    def check(batch):
        assert_same_ids(trained(name), batch)

    check()
    assert_same_ids(trained(name), texts())


@pytest.mark.parametrize("name", SPLIT_PATTERNS)
def test_every_short_text_over_characters_of_each_kind(name):
    kinds = ["a", "s", "A", "1", " ", "\n", "'", "!", "中", "\u0301", "\t"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(kinds, repeat=n)]
    batch += ["".join(t) for t in itertools.product([" ", "\n", "a", "!"], repeat=6)]
    assert_same_ids(trained(name), batch)


def code_points(step: int) -> list[int]:
    """Every code point up to U+30FF, every step-th of the others."""
    above = random.Random(0).sample(range(0x3100, 0x10FFFF), (0x10FFFF - 0x3100) // step)
    return [p for p in [*range(0x3100), *above, 0x10FFFF] if not 0xD800 <= p < 0xE000]


@pytest.mark.parametrize("step", [200, pytest.param(1, marks=pytest.mark.slow)])
def test_every_code_point_is_in_the_class_that_the_library_puts_it_in(step):
    """Around a character of unknown class the pieces, and so the ids, show its class."""
    points = code_points(step)
    for name, context in (("ours", "a{0}b 1{0}2 !{0}"), ("gpt2", " {0}\n'{0}")):
        for start in range(0, len(points), 50_000):
            some = points[start : start + 50_000]
            assert_same_ids(trained(name), [context.format(chr(p)) for p in some])


@quick
@given(st.lists(st.binary(max_size=12), min_size=1, max_size=30))
def test_bytes_that_are_not_utf8_count_as_the_replacement_character(batch):
    tokenizer = trained("ours")
    assert_same_ids(tokenizer, batch)
    ids = tokenizer.graph().tokenize(tf.constant(batch)).to_list()
    assert ids == tokenizer.encode_batch([b.decode("utf-8", "replace") for b in batch])


def test_bytes_around_the_bounds_of_utf8():
    bounds = b"\x00A\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc2\xdf\xe0\xe1\xed\xef\xf0\xf4\xf5\xff"
    batch = [bytes(t) for n in (1, 2, 3) for t in itertools.product(bounds, repeat=n)]
    assert_same_ids(trained("ours"), batch)


def test_empty_texts_and_empty_batches():
    tokenizer = trained("ours")
    assert_same_ids(tokenizer, ["", "a", "", ""])
    assert tokenizer.graph().tokenize(tf.zeros([0], tf.string)).to_list() == []
    assert tokenizer.graph().detokenize(tf.zeros([0, 3], tf.int32)).shape == (0,)
    assert tokenizer.graph().detokenize(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]


def test_a_text_alone_and_in_a_batch_have_the_same_ids():
    graph = trained("ours").graph()
    batch = texts()[:40]
    together = graph.tokenize(tf.constant(batch)).to_list()
    assert together == [graph.tokenize(tf.constant([t])).to_list()[0] for t in batch]


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\n", "=", "中", "1", "aab", "the"])
def test_long_runs(unit):
    lengths = [1, 2, 3, 7, 64, 1000, 3001]
    assert_same_ids(trained("gpt2"), [unit * n for n in lengths])


def test_long_words_of_random_letters():
    letters = random.Random(0)
    batch = ["".join(letters.choices(a, k=k)) for a in ("ab", "abcdehit", "thequick") for k in
             (300, 2000, 9000)]  # fmt: skip
    assert_same_ids(trained("gpt2"), batch)


def test_a_run_of_a_hundred_thousand_letters():
    tokenizer = trained("ours")
    assert_same_ids(tokenizer, ["a" * 100_000, "ab" * 50_000, "x" * 100_000])


def test_the_turns_of_the_merge_loop_do_not_grow_with_the_text(monkeypatch):
    """Each turn costs the length of the text, so a long prompt would cost its square."""
    tokenizer = trained("ours", 900)
    graph = BytePairGraph(read_specification(tokenizer.to_json(), {}))
    turns, with_local = [], MergeLoop._with_local

    def spy(self, at, rank):
        turns[-1] += 1
        return with_local(self, at, rank)

    monkeypatch.setattr(MergeLoop, "_with_local", spy)
    chance = random.Random(0)
    words = ["the", "nothing", "something", "ab", "=", "x", "quick"]
    for units in ("abcdefghijklmnopqrstuvwxyz", words):
        turns.clear()
        for length in (300, 30_000):
            turns.append(0)
            text = "".join(chance.choices(units, k=length)).encode()[:length]
            symbols = tf.gather(graph._byte_ids, list(text))
            at = tf.range(length)
            graph._merges.run(symbols, 0 * at, at, tf.constant(1), tf.fill([length], -1))
        assert turns[1] < 3 * turns[0] < 150, turns


def random_merges(seed: int) -> BytePairTokenizer:
    """A tokenizer whose merges stand in a random order: parts may come after what they make."""
    chance = random.Random(seed)
    words = json.loads(trained("gpt2").to_json())
    vocab = {c: i for i, c in enumerate(t for t in words["model"]["vocab"] if len(t) == 1)}
    tokens, merges = ["a", "b", "c"], []
    for _ in range(40):
        left, right = chance.choice(tokens), chance.choice(tokens)
        if [left, right] not in merges and len(left + right) < 12:
            merges.append([left, right])
            tokens.append(left + right)
            vocab.setdefault(left + right, len(vocab))
    chance.shuffle(merges)
    words["added_tokens"] = []
    words["model"] |= {"vocab": vocab, "merges": merges}
    return BytePairTokenizer(json.dumps(words))


def test_short_pieces_treated_as_long_ones(monkeypatch):
    monkeypatch.setattr(merge_loop, "_LONG", 0)
    tokenizer = changed(trained("gpt2"))  # a graph of its own
    chance = random.Random(0)
    batch = ["".join(t) for t in itertools.product("ab", repeat=10)]
    batch += ["".join(chance.choices("abcdehit", k=k)) for k in range(2, 50) for _ in range(20)]
    assert_same_ids(tokenizer, batch)


@pytest.mark.parametrize("long", [0, merge_loop._LONG])
@pytest.mark.parametrize("seed", range(5))
def test_merges_in_any_order(seed, long, monkeypatch):
    monkeypatch.setattr(merge_loop, "_LONG", long)
    tokenizer = random_merges(seed)
    chance = random.Random(seed)
    batch = ["".join(t) for t in itertools.product("abc", repeat=7)]
    batch += ["".join(chance.choices("abc", k=chance.randint(8, 60))) for _ in range(300)]
    batch += ["".join(chance.choices("aab", k=3000)) for _ in range(2)]
    batch += [t * 200 for t in ("aab", "abc", "aaab", "abcb", "a")]
    assert_same_ids(tokenizer, batch)


# ------------------------------------------------------------------ what tokenizer.json may say


@pytest.mark.parametrize(
    "steps",
    [
        [byte_level(use_regex=True)],
        [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)],
        [{"type": "Digits", "individual_digits": False}, byte_level(use_regex=True)],
        [byte_level()],
        [split(r"\p{N}{1,3}"), split("[一-龥ぁ-ヿ]+"), split(SPLIT_PATTERNS["qwen"]), byte_level()],
        [split(SPLIT_PATTERNS["gpt4"], "Removed", invert=True), byte_level()],
        [{**split(""), "pattern": {"String": " "}}, byte_level()],
        [{**split(""), "pattern": {"String": "a.b"}}, byte_level()],
        [split(r"[a-c]+?b|[[:alpha:]&&[^a-c]]{2,3}|\p{N}(?!\p{L})|\s{2,}(?=\p{L})"), byte_level()],
        [split(r"(?:ab|a)(?:b|\n)*|[\]\-^x]|[]a]|\x41|\u0042|\."), byte_level()],
    ],
    ids=lambda steps: "+".join(s["type"] for s in steps),
)  # fmt: skip
def test_pre_tokenizers(steps):
    tokenizer = with_pre_tokenizer(*steps)

    @quick
    @given(batches)
    def check(batch):
        assert_same_ids(tokenizer, batch)

    check()
    kinds = ["a", "b", "x", "]", "1", " ", "\n", "!", "中"]
    assert_same_ids(
        tokenizer, ["".join(t) for n in range(4) for t in itertools.product(kinds, repeat=n)]
    )


def added(*contents: str, special: bool = True, normalized: bool = False) -> list[dict]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return [
        {"id": 700 + i, "content": c, "special": special, "normalized": normalized, **flags}
        for i, c in enumerate(contents)
    ]


def renumbered(*groups: list[dict]) -> list[dict]:
    tokens = [t for group in groups for t in group]
    return [{**t, "id": 700 + i} for i, t in enumerate(tokens)]


@pytest.mark.parametrize("normalized", [False, True])
def test_added_tokens_that_overlap(normalized):
    names = ["<a>", "<a><b>", "b><", "<b>", "a b", " ", "é", "<\n>", "aa", "aaa", ".*", "\\"]
    tokenizer = changed(trained("ours"), added_tokens=added(*names, normalized=normalized))
    pieces = ["<a>", "<b>", "<", ">", "a", "b", " ", "é", "\n", "x", ".*", ".", "\\", "e\u0301"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(pieces, repeat=n)]
    assert_same_ids(tokenizer, batch)


def test_added_tokens_before_and_after_normalization():
    tokens = renumbered(
        added("bc", "<x>", "K"), added("ab", "<x", "é", "xK", normalized=True, special=False)
    )
    for normalizer in (None, {"type": "NFC"}):
        tokenizer = changed(trained("ours"), added_tokens=tokens, normalizer=normalizer)
        pieces = ["a", "b", "c", "<", "x", ">", "K", "\u212a", "e", "\u0301", "é", "\0"]
        batch = ["".join(t) for n in range(4) for t in itertools.product(pieces, repeat=n)]
        assert_same_ids(tokenizer, batch)


def test_special_tokens_that_are_not_parsed():
    tokens = renumbered(
        added("<a>", "ab", "<\n>"),
        added("<a><", "b<", "x", "bx", special=False),
        added("é", "a<", normalized=True),
        added("x<", ">é", special=False, normalized=True),
    )
    pieces = ["<a>", "<", ">", "a", "b", "x", "\n", "e\u0301", "\0"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(pieces, repeat=n)]
    for normalizer in (None, {"type": "NFC"}):
        tokenizer = changed(trained("ours"), added_tokens=tokens, normalizer=normalizer)
        assert_same_ids(tokenizer, batch, parse_special=False)
        ids = {i for row in tokenizer.encode_batch(batch, parse_special=False) for i in row}
        assert {tokenizer.token_id(t) for t in ("b<", "x", "bx")} <= ids
        assert not {tokenizer.token_id(t) for t in ("<a>", "<\n>")} & ids


def test_special_tokens_that_are_broken_and_put_together_again():
    tokens = renumbered(
        added("<a>", "<a><b>"),
        added("b", "<a", special=False),
        added("<é>", normalized=True),
        added("ab", ">é", special=False, normalized=True),
    )
    pieces = ["<", "a", "b", ">", "é", "e\u0301", "\ufdd0", "<a>", "<é>", "\0"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(pieces, repeat=n)]
    batch += ["<a\ufdd0>\ufdd0<b>", "<\ufdd0é>", "<\ufdd0e\u0301>", "\ufdd0<a><\ufdd0a>"]
    template = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    for normalizer in (None, {"type": "NFC"}):
        tokenizer = changed(
            trained("ours"), added_tokens=tokens, normalizer=normalizer, post_processor=template
        )
        ids = tokenizer.graph().tokenize_unbroken(tf.constant(batch)).to_list()
        for text, ours in zip(batch, ids, strict=True):
            assert ours == tokenizer.encode_unbroken(text)[0], text


@quick
@given(batches)
def test_texts_whose_special_tokens_are_not_parsed(batch):
    assert_same_ids(trained("ours"), batch, parse_special=False)


def test_a_special_token_that_is_a_word_of_the_vocabulary():
    settings_ = json.loads(trained("ours").to_json())
    the = settings_["model"]["vocab"]["the"]
    settings_["added_tokens"].append(added("the")[0] | {"id": the})
    tokenizer = BytePairTokenizer(json.dumps(settings_))
    assert_same_ids(tokenizer, ["the", " the", "other", "bathe the"])
    assert_same_ids(tokenizer, ["the", " the", "other", "bathe the"], parse_special=False)
    settings_["model"]["ignore_merges"] = True
    with pytest.raises(ValueError, match=r"ignore_merges .* 'the'"):
        BytePairTokenizer(json.dumps(settings_)).graph()


def test_added_tokens_that_take_the_space_beside_them():
    left, right, both, plain = added("<l>", "<r>", "<b>", "<p>")
    tokens = renumbered(
        [left | {"lstrip": True}, right | {"rstrip": True}],
        [both | {"lstrip": True, "rstrip": True, "special": False}, plain],
    )
    tokenizer = changed(trained("ours"), added_tokens=tokens)
    pieces = ["<l>", "<r>", "<b>", "<p>", " ", "\n\t", "a", "\u3000\x85", "\u200b\x1f"]
    batch = ["".join(t) for n in range(5) for t in itertools.product(pieces, repeat=n)]
    assert_same_ids(tokenizer, batch)
    assert_same_ids(tokenizer, batch, parse_special=False)


def test_normalization_form_c():
    tokenizer = changed(trained("ours"), normalizer={"type": "NFC"})
    marks = ["a", "e", "\u0301", "\u0327", "\u0345", "\u1112", "\u1161", "\u11ab", "\u212b", "\0"]
    marks += ["\u0344", "\u1df6", "\u0897", "\U0001611e", "\U00016121", "\u3099", "か", "\u0958"]
    batch = ["".join(t) for n in range(4) for t in itertools.product(marks, repeat=n)]
    assert_same_ids(tokenizer, [t + "<|im_end|>" + t for t in batch])


def test_tokens_that_the_template_puts_around_a_text():
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            t: {"id": t, "ids": [trained("ours").special_tokens[t]], "tokens": [t]}
            for t in ("<|im_start|>", "<|im_end|>")
        },
    }
    tokenizer = changed(trained("ours"), post_processor=template)
    assert_same_ids(tokenizer, ["", "a text", "<|im_end|>"])
    assert tokenizer.encode("") == [1, 2]
    assert_same_ids(tokenizer, ["", "a text", "<|im_end|>"], add_special=False)
    assert_same_ids(tokenizer, ["", "<|im_end|>"], add_special=False, parse_special=False)
    assert tokenizer.encode("<|im_end|>", add_special=False) == [2]


def test_pieces_of_the_vocabulary_may_skip_the_merges():
    settings_ = json.loads(trained("ours").to_json())
    settings_["model"]["ignore_merges"] = True
    settings_["model"]["vocab"] |= {"xqzj": 700, "Ġzzz": 701}  # no merge makes these
    tokenizer = BytePairTokenizer(json.dumps(settings_))
    assert_same_ids(tokenizer, ["xqzj", "a zzz", "xqzjx", "zzz", *texts()])
    assert tokenizer.encode("xqzj") == [700]


def test_bytes_without_a_token_are_left_out_as_the_library_does():
    settings_ = json.loads(trained("ours").to_json())
    vocab = settings_["model"]["vocab"]
    settings_["model"]["merges"] = [["a", "b"]]
    settings_["model"]["vocab"] = {t: vocab[t] for t in ("a", "b", "c", "ab", "Ġ") if t in vocab}
    tokenizer = BytePairTokenizer(json.dumps(settings_))
    assert_same_ids(tokenizer, ["abc", "axb", "x", "ab xab", "中"])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda t: changed(t, normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda t: changed(t, decoder={"type": "Fuse"}), "Fuse"),
        (lambda t: changed(t, pre_tokenizer={"type": "Whitespace"}), "ByteLevel"),
        (lambda t: with_pre_tokenizer({"type": "Whitespace"}, byte_level()), "Whitespace"),
        (lambda t: with_pre_tokenizer(byte_level(add_prefix_space=True)), "add_prefix_space"),
        (lambda t: with_pre_tokenizer(split(r"a(?=bc)"), byte_level()), "look-ahead"),
        (lambda t: with_pre_tokenizer(split(r"(?<=a)b"), byte_level()), "look-behind"),
        (lambda t: with_pre_tokenizer(split(r"a\b"), byte_level()), "word boundary"),
        (lambda t: with_pre_tokenizer(split(r"(a)\1"), byte_level()), "back-reference"),
        (lambda t: with_pre_tokenizer(split(r"^a"), byte_level()), "anchor"),
        (lambda t: with_pre_tokenizer(split(r"(?>a+)b"), byte_level()), "atomic"),
        (lambda t: with_pre_tokenizer(split(r"a++a"), byte_level()), "possessive"),
        (lambda t: with_pre_tokenizer(split(r"(?i:strasse)"), byte_level()), "case ignored"),
        (lambda t: with_pre_tokenizer(split(r"\s*"), byte_level()), "at least one character"),
        (lambda t: with_pre_tokenizer(split(r"\s+", "Removed"), byte_level()), "Removed"),
        (lambda t: with_pre_tokenizer(split(r"\p{L}", "Removed", True), byte_level()), "drops"),
        (lambda t: changed(t, added_tokens=[added(" x")[0] | {"rstrip": True}]), "rstrip"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_do_is_refused_by_name(make, named):
    tokenizer = make(trained("ours"))
    assert isinstance(tokenizer.encode("some text"), list)  # the library still does it
    with pytest.raises(ValueError, match=named):
        tokenizer.graph()


# ------------------------------------------------------------------ detokenizing and running


@quick
@given(
    st.lists(st.lists(st.integers(-3, 705), max_size=12), min_size=1, max_size=30),
)
def test_detokenizing_any_ids_gives_the_librarys_text(rows):
    tokenizer = trained("ours")
    ids = tf.ragged.constant(rows, tf.int32, ragged_rank=1)
    decoded = [t.decode("utf-8") for t in tokenizer.graph().detokenize(ids).numpy()]
    assert decoded == [tokenizer.decode(row) for row in rows]


def test_special_tokens_have_no_bytes():
    tokenizer = trained("ours")
    token_bytes = tokenizer.graph().token_bytes.numpy()
    assert len(token_bytes) == tokenizer.vocab_size
    for id_ in range(tokenizer.vocab_size):
        is_special = id_ in tokenizer.special_tokens.values()
        assert (token_bytes[id_] == b"") == is_special


def test_graph_is_saved_and_loaded(tmp_path):
    tokenizer = trained("qwen")
    module = tf.Module()
    module.tokenizer = tokenizer.graph()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(text):
        ids = module.tokenizer.tokenize(text)
        return {"text": module.tokenizer.detokenize(ids), "count": ids.row_lengths()}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    loaded = tf.saved_model.load(str(tmp_path))
    batch = ["Hello, wörld 123", "", "<|im_start|>中文\n\n", "a\0b"]
    result = loaded.signatures["serving_default"](tf.constant(batch))
    expected = tokenizer.encode_batch(batch)
    assert result["count"].numpy().tolist() == [len(e) for e in expected]
    assert result["text"].numpy().tolist() == [tokenizer.decode(e).encode() for e in expected]
    # The tables are variables, not constants of the graph.
    assert (tmp_path / "saved_model.pb").stat().st_size < 1_000_000


def test_graph_holds_no_table_and_no_large_constant():
    function = tf.function(trained("ours").graph().tokenize)
    graph = function.get_concrete_function(tf.TensorSpec([None], tf.string)).graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    assert not [n.op for n in nodes if "Table" in n.op or n.op.startswith(("PyFunc", "EagerPy"))]
    assert max(len(n.attr["value"].tensor.tensor_content) for n in nodes if n.op == "Const") < 1000


def test_graph_runs_in_a_dataset():
    tokenizer = trained("ours")
    graph = tokenizer.graph()
    batch = texts()[:20]
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(3).map(graph.tokenize)
    assert [row for rows in dataset for row in rows.to_list()] == tokenizer.encode_batch(batch)
