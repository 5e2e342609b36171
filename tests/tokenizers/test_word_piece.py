"""WordPiece: the graph compared with the `tokenizers` library, folders, training."""

import functools
import json
import pickle

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from tests.tokenizers.samples import texts
from tfllm.pretrained import load_tokenizer
from tfllm.tokenizers import Tokenizer, WordPiece
from tfllm.tokenizers.specification import bert_characters
from tfllm.tokenizers.specification.word_piece_specification import read_word_piece_specification

PARTS = [
    *(" ", "\n", "\t", "\0", "\1", "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "\ufffd"),
    *("a", "b", "A", "the", "ing", "s", "ſ", "İ", "é", "e\u0301", "ß", "ﬁ", "Σ", "ǅ", "Ǆ", "각"),
    *("1", "23", "½", "中", "文", "\u0301", "\u034f", "नि", "ー", "\uf900", "\u302e", "\U0001d165"),
    *("_", "-", "!", "'", "#", "##", "$", "^", "`", "。", "«", "🎉", "👩\u200d👧", "\U0010ffff"),
    *("[CLS]", "[MASK]", "[mask]", "[", "]", "MASK", "[UNK]", "[PAD]", "\ue000", "\U000e0001"),
]  # fmt: skip
batches = st.lists(
    st.one_of(st.lists(st.sampled_from(PARTS), max_size=14).map("".join), st.text(max_size=20)),
    min_size=1,
    max_size=30,
)
KINDS = {
    "lowercase": {},
    "cased": {"lowercase": False},
    "accents": {"strip_accents": False},
    "no accents, cased": {"lowercase": False, "strip_accents": True},
}


@functools.cache
def trained(kind: str = "lowercase") -> WordPiece:
    return WordPiece.train([*texts(), "".join(PARTS)], 420, **KINDS[kind])


def changed(**parts) -> WordPiece:
    """The lower-case tokenizer with other parts of its tokenizer.json."""
    return WordPiece(json.dumps({**json.loads(trained().to_json()), **parts}))


def assert_as_the_library(tokenizer: WordPiece, batch: list[str], **options: bool) -> None:
    """Ids and offsets of the graph, of Python, and of the library itself are the same."""
    library = Library.from_str(tokenizer.to_json())
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = not options.get("parse_special", True)
    add_special = options.get("add_special", True)
    graph = tokenizer.graph()
    raw = tf.constant([t.encode() for t in batch])
    ids, begins, ends = (x.to_list() for x in graph.tokenize_with_offsets(raw, **options))
    assert graph.tokenize(raw, **options).to_list() == ids
    assert tokenizer.encode_batch(batch, **options) == ids
    for text, *ours in zip(batch, ids, begins, ends, strict=True):
        expected = library.encode(text, add_special_tokens=add_special)
        assert ours[0] == expected.ids, text
        assert list(zip(*ours[1:], strict=True)) == expected.offsets, text
        assert tokenizer.encode_with_offsets(text, **options) == (ours[0], expected.offsets)
    decoded = graph.detokenize(tf.ragged.constant(ids, dtype=tf.int32)).numpy()
    assert [text.decode() for text in decoded] == [tokenizer.decode(i) for i in ids]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_offsets_are_the_librarys(kind):
    @settings(
        max_examples=8,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=True,
    )
    @given(batches)
    def check(batch):
        assert_as_the_library(trained(kind), batch)

    check()
    batch = [*texts(), *PARTS, "", "a" * 100, "a" * 101, "é" * 100, "e\u0301" * 101, "中" * 101]
    assert_as_the_library(trained(kind), batch)
    assert_as_the_library(trained(kind), batch, parse_special=False, add_special=False)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_every_code_point(step):
    points = [p for p in [*range(0x3100), *range(0x3100, 0x110000, step)] if p >> 11 != 0x1B]
    batch = [f"a{chr(p)}b {chr(p)} {chr(p)}{chr(p)}" for p in points]
    tokenizer = trained("cased")
    for begin in range(0, len(batch), 100_000):
        some = batch[begin : begin + 100_000]
        ids = tokenizer.graph().tokenize(tf.constant(some)).to_list()
        assert ids == tokenizer.encode_batch(some)


def test_offsets_are_characters_of_the_text_as_it_was_given():
    tokenizer = WordPiece.train(["naive cafe"] * 3, 60)
    text = "\0Cafe\u0301 nai\u0308ve 世界 \U0001f389WORLD"
    ids, begins, ends = tokenizer.graph().tokenize_with_offsets(
        tf.constant([text]), add_special=False
    )
    spans = list(zip(begins.to_list()[0], ends.to_list()[0], strict=True))
    assert "".join(text[b:e] for b, e in spans) == "Cafenai\u0308ve世界\U0001f389WORLD"
    unknown = [text[b:e] for i, (b, e) in zip(ids.to_list()[0], spans, strict=True) if i == 1]
    assert unknown == ["世", "界", "\U0001f389WORLD"]


def test_bytes_that_are_not_utf8_and_lone_surrogates():
    tokenizer = trained()
    batch = [b"a\xffb", b"\xe4\xb8", "a\ud800b"]
    raw = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in batch]
    ids = tokenizer.graph().tokenize(tf.constant(raw)).to_list()
    assert ids == tokenizer.encode_batch(batch)


def test_a_pair_and_the_names_of_the_tokens():
    tokenizer = trained()
    assert isinstance(tokenizer, Tokenizer)
    ids, types = tokenizer.encode_pair("the fox", "the dog")
    first, second = (tokenizer.encode(t, add_special=False) for t in ("the fox", "the dog"))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert ids == [cls, *first, sep, *second, sep]
    assert types == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, cls, sep) == (0, 1, 2, 3)
    assert (tokenizer.mask_token_id, tokenizer.end_token_ids) == (4, (3,))
    assert tokenizer.encode_unbroken("the [MA\ufdd0SK] fox")[0] == tokenizer.encode(
        "the [MASK] fox", parse_special=False, add_special=False
    )
    graph_ids = tokenizer.graph().tokenize_unbroken(tf.constant(["the [MA\ufdd0SK] fox"]))
    assert graph_ids.to_list()[0] == tokenizer.encode_unbroken("the [MA\ufdd0SK] fox")[0]


def test_a_folder_holds_it(tmp_path):
    tokenizer = trained("cased")
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is WordPiece
    assert loaded.settings["do_lower_case"] is False
    for other in (loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode_batch(texts()) == tokenizer.encode_batch(texts())
        assert other.end_token_id == other.sep_token_id == tokenizer.sep_token_id


@pytest.mark.parametrize("kind", ["lowercase", "cased"])
def test_a_vocabulary_alone_is_the_same_tokenizer(kind, tmp_path):
    tokenizer = trained(kind)
    vocab = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    if kind == "cased":
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    loaded = load_tokenizer(tmp_path)
    assert json.loads(loaded.to_json()) == json.loads(tokenizer.to_json())
    assert loaded.special_tokens == tokenizer.special_tokens


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "a"], r"it lacks \[SEP\]"),
        (["[PAD]", "a", "b", "a"], "'a' occurs twice"),
    ],
)
def test_a_vocabulary_that_is_none(lines, message, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_training_gives_the_same_tokenizer_again_and_says_what_is_wrong(caplog):
    assert WordPiece.train(texts(), 300).to_json() == WordPiece.train(texts(), 300).to_json()
    assert WordPiece.train(texts(), 300).vocab_size == 300
    assert WordPiece.train(["a b"], 100).vocab_size < 100
    assert "too small for a vocabulary of 100" in caplog.text
    with pytest.raises(ValueError, match="one text"):
        WordPiece.train("a text", 100)
    with pytest.raises(ValueError, match="at least 6"):
        WordPiece.train(["a"], 5)


ADDED = {"id": 5, "content": "a", "single_word": False, "lstrip": False, "rstrip": False}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer 'Lowercase'"),
        ({"normalizer": None}, "normalizer None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer 'Whitespace'"),
        (
            {"added_tokens": [{**ADDED, "content": "\x01", "normalized": True, "special": False}]},
            "which is empty once normalized",
        ),
    ],
)
def test_what_the_graph_cannot_do_is_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=message):
        changed(**parts).graph()


def controlled(*tokens: str, clean: bool, unknown: str | None = None) -> WordPiece:
    content = json.loads(trained().to_json())
    vocab, size = content["model"]["vocab"], trained().vocab_size
    content["model"]["vocab"] = vocab | {token: size + i for i, token in enumerate(tokens)}
    content["normalizer"]["clean_text"] = clean
    content["model"]["unk_token"] = unknown or content["model"]["unk_token"]
    return WordPiece(json.dumps(content))


@pytest.mark.parametrize("token", ["\x11", "##\x01", "a\u200db", "\x7f"])
def test_control_characters_in_the_vocabulary_are_refused_where_they_stay_in_a_text(token):
    """The refusal alone: the kernel, which is not safe with them, is never given any."""
    with pytest.raises(ValueError, match=r"the control character U\+[0-9A-F]{4}, which the norm"):
        controlled(token, clean=False).graph()
    with pytest.raises(ValueError, match="the unknown token '\\\\x02', which has a control"):
        controlled("\x02", clean=True, unknown="\x02").graph()
    cleaned = controlled(token, clean=True)
    specification = read_word_piece_specification(
        cleaned.to_json(), Library.from_str(cleaned.to_json()).get_added_tokens_decoder()
    )
    assert token not in specification.vocab and "the" in specification.vocab
    assert cleaned.vocab_size == trained().vocab_size + 1
    if token != "\x11":
        return
    batch = texts()[:20]
    assert cleaned.graph().tokenize(tf.constant(batch)).to_list() == cleaned.encode_batch(batch)


def test_how_letters_are_treated_is_written_as_the_normalizer_has_it(tmp_path):
    for kind, keys in (
        ("lowercase", (True, None, True)),
        ("cased", (False, None, True)),
        ("no accents, cased", (False, True, True)),
    ):
        tokenizer = WordPiece(trained(kind).to_json())  # whose settings say nothing
        tokenizer.settings["do_lower_case"] = "wrong"
        tokenizer.save(tmp_path)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        assert tuple(settings[name] for name in names) == keys
        assert settings["tokenizer_class"] == "BertTokenizer"


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": None},
        {"decoder": None},
        {"post_processor": None},
        {"post_processor": {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
                            "trim_offsets": True, "add_prefix_space": False}},
    ],
)  # fmt: skip
def test_a_class_that_would_treat_text_otherwise_is_not_written(changes, tmp_path):
    """BertTokenizer of transformers 5 takes the vocabulary and puts its own rules around it."""
    tokenizer = changed(**changes)
    tokenizer.settings |= {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    tokenizer.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    usual = "sep" in (changes.get("post_processor") or {})
    expected = "BertTokenizer" if usual else "PreTrainedTokenizerFast"
    assert settings["tokenizer_class"] == expected
    assert ("do_lower_case" in settings) == ("normalizer" not in changes)


def test_a_token_is_as_tokenizer_json_writes_it():
    added = {"id": 420, "content": "Fox\u4e2d", "single_word": False, "lstrip": False}
    added |= {"rstrip": False, "normalized": True, "special": True}
    content = json.loads(trained().to_json())
    added["id"] = trained().vocab_size
    tokenizer = changed(added_tokens=[*content["added_tokens"], added])
    assert tokenizer.token(added["id"]) == "Fox\u4e2d"
    assert tokenizer.token_id("Fox\u4e2d") == added["id"]
    ids = tokenizer.encode("the FOX\u4e2d the")
    assert added["id"] in ids
    assert tokenizer.decode(ids) == "the the"
    assert tokenizer.decode(ids, skip_special=False) == "[CLS] the Fox\u4e2d the [SEP]"
    graph = tokenizer.graph()
    assert graph.tokenize(["the FOX\u4e2d the"]).to_list() == [ids]
    assert graph.detokenize(tf.constant([ids])).numpy()[0].decode() == "the the"


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="must be WordPiece; received WordLevel"):
        changed(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})


def test_combining_characters_that_change_places_are_found():
    normalizer = json.dumps(json.loads(trained().to_json())["normalizer"])
    assert bert_characters.changing_places(normalizer, "ab\u302e\U0001d165") != ""
    assert bert_characters.changing_places(normalizer, "ab\u302e\u302f\u0301") == ""
    model = json.loads(trained().to_json())["model"]
    model["vocab"] |= {"\u302e": 900, "\U0001d165": 901}
    with pytest.raises(ValueError, match=r"U\+302E and U\+1D165|U\+1D165 and U\+302E"):
        changed(model=model).graph()


def test_a_saved_model_gives_the_same(tmp_path):
    graph = trained().graph()

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.graph = graph

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")], autograph=False)
        def __call__(self, text):
            ids, begins, ends = self.graph.tokenize_with_offsets(text)
            parts = {"ids": ids, "begins": begins, "ends": ends}
            return {name: x.to_tensor(default_value=-1) for name, x in parts.items()}

    module = Served()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    batch = tf.constant([*texts()[:20], *PARTS, "a" * 101, ""])
    ours = module(batch)
    for name, values in served(text=batch).items():
        assert tf.reduce_all(values == ours[name]), name


@pytest.mark.slow
def test_minilms_tokenizer(minilm_folder):
    tokenizer = load_tokenizer(minilm_folder)
    batch = [*texts(), *PARTS, "".join(PARTS), "a" * 100, "a" * 101]
    assert_as_the_library(tokenizer, batch)
    assert_as_the_library(tokenizer, batch, parse_special=False, add_special=False)
    assert tokenizer.encode("Hello, World!") == [101, 7592, 1010, 2088, 999, 102]
    of_vocabulary = WordPiece.load(minilm_folder / "vocab.txt")
    assert of_vocabulary.encode_batch(batch) == tokenizer.encode_batch(batch)
