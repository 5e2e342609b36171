"""Tokenizers made from lists, compared with those that the lists were taken from."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizers.hard_parts import TEXTS_OF_PARTS
from tests.tokenizers.samples import SPLIT_PATTERNS, assert_same_ids, byte_level, texts, trained
from tfllm.pretrained import load_tokenizer
from tfllm.tokenizers import BytePairTokenizer
from tfllm.tokenizers.kinds.byte_pair_json import BYTE_PAIR_RULES, byte_pair_json


def lists(tokenizer: BytePairTokenizer) -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and types, as llama.cpp's converter writes them."""
    content = json.loads(tokenizer.to_json())
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    special = tokenizer.special_tokens.values()
    types = [3 if i in special else 1 for i in range(len(tokens))]
    return tokens, [" ".join(m) for m in content["model"]["merges"]], types


SAMPLES = [*texts(), "<|im_start|>user\n12345 x<|im_end|>\n", "the 2024ths", "e\u0301", ""]


@pytest.mark.parametrize(
    ("pre", "steps", "changes"),
    [
        ("gpt-2", [byte_level(use_regex=True)], {}),
        ("smollm", [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)], {}),
        ("llama-bpe", "llama3", {"ignore_merges": True}),
        ("qwen2", "qwen", {"normalizer": {"type": "NFC"}}),
        ("gpt-4o", "gpt4o", {}),
    ],
)
def test_a_tokenizer_from_lists_is_the_one_that_they_were_taken_from(pre, steps, changes):
    original = trained("ours")
    content = json.loads(original.to_json())
    content["normalizer"] = changes.get("normalizer")
    content["model"]["ignore_merges"] = changes.get("ignore_merges", False)
    if isinstance(steps, str):
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        steps = [{**split, "pattern": {"Regex": SPLIT_PATTERNS[steps]}}, byte_level()]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    expected = BytePairTokenizer(json.dumps(content))
    tokens, merges, types = lists(original)
    made = BytePairTokenizer(byte_pair_json(tokens, merges, pre, types=types))
    assert made.special_tokens == expected.special_tokens
    for options in ({}, {"parse_special": False}):
        assert made.encode_batch(SAMPLES, **options) == expected.encode_batch(SAMPLES, **options)


def test_begin_and_end_ids_stand_around_a_text():
    tokens, merges, types = lists(trained("ours"))
    made = BytePairTokenizer(byte_pair_json(tokens, merges, "gpt-2", types=types, begin=[1],
                                            end=[2, 0]))  # fmt: skip
    assert made.encode("") == [1, 2, 0]
    assert made.encode("a") == [1, *made.encode("a", add_special=False), 2, 0]


def test_added_and_unused_tokens():
    tokens, merges, types = lists(trained("ours"))
    tokens = [*tokens, "<tool>", "  ", "[PAD1]"]
    made = BytePairTokenizer(byte_pair_json(tokens, merges, "gpt-2", types=[*types, 4, 4, 5]))
    tool = made.token_id("<tool>")
    assert "<tool>" not in made.special_tokens and made.token_id("[PAD1]") is None
    assert made.vocab_size == len(tokens) - 1
    assert tool in made.encode("a<tool>b", parse_special=False)
    assert made.decode(made.encode("a<tool>  b")) == "a<tool>  b"
    assert_same_ids(made, ["a<tool>  b", "[PAD1]"])


def test_the_graph_takes_every_split_pattern():
    tokens, merges, types = lists(trained("ours"))
    for pre in {rules: pre for pre, rules in BYTE_PAIR_RULES.items()}.values():
        made = BytePairTokenizer(byte_pair_json(tokens, merges, pre, types=types))
        assert (
            made.decode(made.encode("It's 12345 ÀBCdef\n\n  end")) == "It's 12345 ÀBCdef\n\n  end"
        )
        made.graph()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "nothing"}, "split pattern must be one of .*; received 'nothing'"),
        ({"types": [1]}, "one type for each token; received 1 for"),
        ({"merges": ["a b c"]}, "two tokens of the vocabulary .*; received 'a b c'"),
        ({"merges": ["a ž"]}, "received 'a ž'"),
        ({"tokens": ["a", "a"], "merges": []}, "'a' is 0 and 1"),
    ],
)
def test_lists_that_do_not_fit_are_refused(change, message):
    tokens, merges, _ = lists(trained("ours"))
    with pytest.raises(ValueError, match=message):
        byte_pair_json(**{"tokens": tokens, "merges": merges, "pre": "gpt-2", **change})


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_each_family_in_the_graph(pre):
    """With a begin token, from a post-processor of two steps as in the file of Llama 3."""
    tokens, merges, types = lists(trained("ours"))
    content = json.loads(byte_pair_json(tokens, merges, pre, types=types, begin=[1]))
    trimmed = {"type": "Sequence", "processors": [byte_level(), content["post_processor"]]}
    tokenizer = BytePairTokenizer(json.dumps({**content, "post_processor": trimmed}))
    assert tokenizer.encode("a")[0] == 1

    @settings(
        max_examples=8,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=True,
    )
    @given(st.lists(st.one_of(st.text(max_size=20), TEXTS_OF_PARTS), min_size=1, max_size=40))
    def check(batch):
        assert_same_ids(tokenizer, batch)

    check()
    assert_same_ids(tokenizer, SAMPLES)


@pytest.mark.slow
def test_the_graph_of_smollm2_gives_the_ids_of_the_library(smollm2_file):
    tokenizer = load_tokenizer(smollm2_file)
    chance = random.Random(0)
    words = [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "12345",
        "it's",
        " I'LL",
        "\n\n",
        "    ",
    ]
    words += ["def f(x):", "你好", "🎉", "\0", "e\u0301", "\u3000", "https://a.b/c?d=e", "naïve"]
    batch = ["".join(chance.choices(words, k=chance.randint(1, 12))) for _ in range(1500)]
    for options in ({}, {"parse_special": False}):
        assert_same_ids(tokenizer, [*batch, *SAMPLES], **options)
