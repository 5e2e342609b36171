"""From text to text: the same result in Python, by the signatures and when streamed."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.toy_text_models import (
    ADDITIONS,
    CONTEXT,
    byte_ids,
    model,
    scripted,
    spelled,
    task,
    tokenizer,
)
from tests.rounding import SIDES, about, assert_rounded, assert_within, rounding
from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation import decoding
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.models.causal_lm import CausalLM
from tfllm.tasks import TextGeneration, generate
from tfllm.tokenizers import BytePairTokenizer

PROMPTS = ["the cat sat", "", "on", "你好 the mat, 🎉 and"]


def served(of: TextGeneration, prompts, rows=None, **options) -> dict[str, np.ndarray]:
    """The `generate` signature; `rows`: each row's own options."""
    default = option_values(GenerationConfig(max_new_tokens=8))
    rows = [{**default, **options, **row} for row in rows or [{}] * len(prompts)]
    inputs = {n: tf.constant([r[n] for r in rows], t) for n, t in OPTION_DTYPES.items()}
    result = of.signatures["generate"](tf.constant(prompts, tf.string), **inputs)
    return {name: value.numpy() for name, value in result.items()}


# ---------------------------------------------------------------------- prompts and options


def test_text_is_what_the_model_finds_likeliest_token_by_token():
    texts = task().generate(PROMPTS, max_new_tokens=6)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        ids = tokenizer().encode(prompt) or [tokenizer().end_token_id]
        new = []
        for _ in range(6):
            new.append(int(model("llama")(tf.constant([ids + new])).numpy()[0, -1].argmax()))
            if new[-1] == tokenizer().end_token_id:
                break
        assert text == tokenizer().decode([i for i in new if i < tokenizer().vocab_size])


def test_a_prompt_gives_the_same_text_alone_and_among_others_with_other_options():
    options = {
        "max_new_tokens": [3, 9, 6, 12],
        "temperature": [0.0, 1.0, 0.7, 1.3],
        "top_k": [0, 5, 0, 3],
        "top_p": [1.0, 1.0, 0.6, 0.9],
        "min_p": [0.0, 0.0, 0.1, 0.2],
        "repetition_penalty": [1.0, 1.5, 1.0, 0.9],
        "seed": [1, 2, 3, 4],
        "stop": [(), ("a",), (), ("e", "t")],
    }
    together = task().generate(PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        assert task().generate(prompt, **{n: v[i] for n, v in options.items()}) == together[i]
    assert len(set(together)) == 4


def test_samples_have_seeds_that_follow_one_another():
    options = {"temperature": 1.5, "max_new_tokens": 6}
    samples = task().generate("the", num_samples=4, seed=7, **options)
    assert samples == [task().generate("the", seed=7 + i, **options) for i in range(4)]
    assert len(set(samples)) > 2
    assert samples == task().generate("the", num_samples=4, seed=7, **options)
    last = 2**31 - 1
    wrapped = task().generate("the", num_samples=2, seed=last, **options)
    assert wrapped == [task().generate("the", seed=s, **options) for s in (last, 0)]


def test_every_prompt_may_have_its_own_number_of_samples():
    options = {"temperature": 1.5, "max_new_tokens": 4}
    texts = task().generate(["the", "on"], num_samples=[1, 3], **options)
    assert [len(samples) for samples in texts] == [1, 3]
    assert texts[1] == task().generate("on", num_samples=3, **options)
    assert texts[0] == [task().generate("the", **options)]


def test_no_prompts_give_no_texts():
    assert task().generate([]) == []
    assert task().score([]) == []
    assert [score["num_tokens"] for score in task().score(["", ""])] == [0, 0]
    result = served(task(), [])
    assert {name: value.shape for name, value in result.items()} == dict.fromkeys(result, (0,))
    assert len(task().signatures["serving_default"](tf.zeros([0], tf.string))["text"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; received 0"),
        ({"max_new_tokens": -3}, "max_new_tokens must be at least 1"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": 1e39}, "temperature must be a finite number"),  # not in float32
        ({"top_p": 0}, "top_p must lie in"),
        ({"min_p": 1}, "min_p must lie in"),
        ({"repetition_penalty": 0}, "repetition_penalty must be"),
        ({"seed": 2**31}, "seed must lie in"),
        ({"top_k": "many"}, "top_k must be a whole number"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"temperature": [1.0]}, "temperature must be one value or one a prompt"),
        ({"stop": "x" * 5000}, "stop must have at most 4096 bytes"),
        ({"stop": "a\x1fb"}, "must not contain"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
    ],
)
def test_a_bad_option_is_a_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        task().generate(["a", "b"], **options)


def test_a_prompt_that_is_too_long_is_named():
    long = "x" * 500
    for call in (
        lambda: task().generate(["a", "b", long], num_samples=2),
        lambda: task().score(["a", "b", long]),
    ):
        with pytest.raises(ValueError, match=f"text 3: the .* {CONTEXT} tokens.* it has 500"):
            call()
    with pytest.raises(ValueError, match="it has 500"):
        task().stream(long)


@pytest.mark.parametrize("bad", [5, None, b"bytes", [1], ["a", None]])
def test_prompts_that_are_no_text_are_refused(bad):
    for call in (task().generate, task().score, task().stream):
        with pytest.raises(ValueError, match="must be a string or a list of strings"):
            call(bad)


def test_options_beyond_any_model_mean_all():
    many = task().generate("the", temperature=1.0, seed=3, top_k=10**6)
    assert task().generate("the", temperature=1.0, seed=3, top_k=2**40) == many
    everything = task().generate("the", max_new_tokens=2**40)
    assert everything.startswith(task().generate("the"))


def test_a_lone_surrogate_in_a_prompt_counts_as_the_tokenizer_has_it():
    assert task().generate("a\ud800b") == task().generate("a\ufffd\ufffd\ufffdb")


# ---------------------------------------------------------------------- counts and reasons


def test_counts_and_finish_reasons():
    of = scripted(spelled("abcdefgh"))
    rows = [
        {"max_new_tokens": 30},
        {"max_new_tokens": 3},
        {"max_new_tokens": 30, "stop": "ef"},
        {"max_new_tokens": 8},
        {"max_new_tokens": 0},
    ]
    result = served(of, [""] * 4 + ["ab"], rows)
    assert result["text"].tolist() == [b"abcdefgh", b"abc", b"abcd", b"abcdefgh", b""]
    assert result["generated_tokens"].tolist() == [8, 3, 6, 8, 0]
    assert result["prompt_tokens"].tolist() == [1, 1, 1, 1, len(tokenizer().encode("ab"))]
    reasons = [b"stop", b"length", b"stop", b"length", b"error"]
    assert result["finish_reason"].tolist() == reasons
    assert result["error"].tolist()[:4] == [b""] * 4
    assert result["error"][4] == b"max_new_tokens must be at least 1; received 0"


def test_the_end_of_the_context_is_a_length():
    prompt = "x y " * 11
    num = len(tokenizer().encode(prompt))
    assert num < CONTEXT
    of = TextGeneration(model("gpt2"), tokenizer(), GenerationConfig())
    of._end_token_ids = tf.constant([-1])  # it shall not end before
    result = served(of, [prompt, "x"], max_new_tokens=40)
    assert result["generated_tokens"].tolist() == [CONTEXT - num, 40]
    assert result["finish_reason"].tolist() == [b"length"] * 2


def test_a_bad_row_leaves_the_others_as_they_are():
    rows = [
        {},
        {"temperature": np.nan},
        {"top_k": -1},
        {"temperature": 1.0, "seed": 5, "stop": "a"},
        {},
        {"seed": -1, "stop": "("},
    ]
    prompts = ["the cat", "the", "on", "on the", "x" * 3000, "mat"]
    result = served(task(), prompts, rows)
    good = [0, 3]
    alone = served(task(), [prompts[i] for i in good], [rows[i] for i in good])
    for name, values in alone.items():
        np.testing.assert_array_equal(result[name][good], values)
    bad = [1, 2, 4, 5]
    assert all(result["error"][bad]) and not any(result["text"][bad])
    assert result["finish_reason"][bad].tolist() == [b"error"] * 4
    assert result["generated_tokens"][bad].tolist() == [0] * 4
    assert result["prompt_tokens"][4] == len(tokenizer().encode("x" * 3000))


def test_serving_default_has_the_settings_that_the_task_was_made_with():
    settings = GenerationConfig(max_new_tokens=7, temperature=0.9, top_k=9, seed=3, stop=("zz",))
    of = TextGeneration(model("llama"), tokenizer(), settings)
    result = of.signatures["serving_default"](tf.constant(PROMPTS))
    expected = served(of, PROMPTS, [option_values(settings)] * 4)
    for name, values in expected.items():
        np.testing.assert_array_equal(result[name].numpy(), values)


def test_a_prompt_that_is_not_utf_8_is_answered():
    result = served(task(), [b"the \xff\xfecat\x80", b"\x00", b"\xf0\x9f", b"the"])
    assert result["error"].tolist() == [b""] * 4
    for text in result["text"]:
        text.decode()  # valid, whatever came in
    assert result["text"][3] == served(task(), [b"the"])["text"][0]


def test_other_batch_sizes_and_lengths_trace_nothing_new():
    of = task()
    functions = [*of.signatures.values(), of.stream_begin, of.stream_next]
    traces = []
    for prompts in (["a"], ["a", "bb", "the cat sat on"], ["xy"] * 5, []):
        served(of, prompts, max_new_tokens=2)
        of.signatures["score"](tf.constant(prompts, tf.string))
        of.signatures["serving_default"](tf.constant(prompts, tf.string))
        assert len(list(of.stream("on".join(prompts), max_new_tokens=4))) <= 4
        # Not counted from 0: an export traces too.
        traces.append([f.experimental_get_tracing_count() for f in functions])
    assert traces == traces[:1] * 4


# ---------------------------------------------------------------------- what is shown


def test_special_tokens_are_never_shown():
    of = scripted([b"a", 1, b"b", 1, 1, b"c"])
    result = served(of, [""], max_new_tokens=30)
    assert result["text"][0] == b"abc"
    assert result["generated_tokens"][0] == 6


def test_ids_that_only_the_padded_embedding_has_are_not_shown():
    assert tokenizer().vocab_size < 299
    of = scripted([b"a", 299, tokenizer().vocab_size, b"b"])
    assert of.generate("", max_new_tokens=30) == "ab"
    assert "".join(of.stream("", max_new_tokens=30)) == "ab"


@pytest.mark.parametrize(
    ("said", "stop", "shown"),
    [
        ("one.two", [".t"], "one"),
        ("price (5.0)*2", ["(5.0)*"], "price "),
        ("a\nb\n\nc", ["\n\n"], "a\nb"),
        ("x你好y", ["好"], "x你"),  # within a character's bytes
        ("x🎉é", ["é", "🎊"], "x🎉"),
        ("abcabd", ["bd", "abd"], "abc"),
        ("aaaaab", ["aab"], "aaa"),
        ("no stop", ["xyz", "[", "\\"], "no stop"),
        ("end", ["end"], ""),
        ("the\0end\x1b", ["\0e"], "the"),
    ],
)
def test_stop_strings_over_token_boundaries(said, stop, shown):
    of = scripted(spelled(said))
    assert of.generate("", stop=stop) == shown
    assert "".join(of.stream("", stop=stop)) == shown


def test_a_stop_string_within_one_token_ends_before_it():
    token = max(byte_ids(), key=len)
    said = token.decode()
    assert len(said) >= 3
    of = scripted([b"x", token, b"y"])
    assert of.generate("", stop=said[1]) == "x" + said[: said.index(said[1])]


def test_each_row_has_its_own_stop_strings():
    of = scripted(spelled("a.b,c;d"))
    texts = of.generate([""] * 4, stop=[[";", ","], ["."], [], ["c;"]])
    assert texts == ["a.b", "a", "a.b,c;d", "a.b,"]
    assert of.generate(["", ""], stop=[",", "."]) == ["a", "a"]


PIECES = st.sampled_from(
    [*spelled(b"\xff\xe4\xbd\xa0\xf0\x9f\x8e\x89\xc3\xa9"), *spelled("aabb \n"), 1]
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(PIECES, max_size=14),
    st.lists(st.sampled_from(["ab", "b", "a\n", "你", "é", "aab", "\ufffda", "🎉 "]), max_size=2),
    st.integers(1, 16),
)
def test_pieces_join_to_the_text_whatever_the_bytes(said, stop, most):
    of = scripted(said)
    options = {"stop": stop, "max_new_tokens": most}
    pieces = list(of.stream("", **options))
    text = of.generate("", **options)
    assert "".join(pieces) == text
    assert all(pieces)
    # From the bytes, by Python's own decoder.
    data = b""
    for token in said[:most]:
        data += b"" if token == 1 else token
        if any(s in data.decode(errors="replace") for s in stop if "\ufffd" not in s):
            break
    whole = data.decode(errors="replace")
    places = [whole.find(s) for s in stop if s in whole]
    assert text == (whole[: min(places)] if places else whole)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_join_to_the_text_of_a_random_model(seed):
    options = {
        "temperature": 1.5,
        "seed": seed,
        "max_new_tokens": 20,
        "stop": [["t"], [], [" ", "\n"], ["he"]][seed],
        "repetition_penalty": 1.1,
    }
    prompt = PROMPTS[seed]
    assert "".join(task().stream(prompt, **options)) == task().generate(prompt, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_cache_that_grows_changes_no_text(name, monkeypatch):
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 2)
    of = TextGeneration(model(name), tokenizer())
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 2}
    expected = task(name).generate(PROMPTS, **options)
    assert max(map(len, expected)) > 10
    assert of.generate(PROMPTS, **options) == expected
    assert ["".join(of.stream(prompt, **options)) for prompt in PROMPTS] == expected


def test_pieces_come_one_token_at_a_time():
    of = scripted(spelled("abcd"))
    steps, original = [], of.stream_next

    def spy(state):
        steps.append(state["text"].numpy()[0])
        return original(state)

    of.stream_next = spy
    try:
        stream = of.stream("")
        assert next(stream) == "a" and steps == []
        assert next(stream) == "b" and steps == [b"a"]
    finally:
        of.stream_next = original


def test_a_stream_refuses_what_it_cannot_do_at_once():
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1"):
        task().stream("a", max_new_tokens=0)
    with pytest.raises(ConfigError, match="num_samples must be 1"):
        task().stream("a", num_samples=2)
    with pytest.raises(ValueError, match="one prompt"):
        task().stream(["a"])


@pytest.mark.slow
def test_a_text_ends_at_any_of_the_ids_that_end_one(tmp_path):
    tokenizer().save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    two = BytePairTokenizer.load(tmp_path)
    assert two.end_token_ids == (0, 1)
    for ends, shown in ((tokenizer(), "ab"), (two, "a")):
        said = scripted([b"a", 1, b"b"])
        of = TextGeneration(said.model, ends)
        result = served(of, [""], max_new_tokens=30)
        assert result["text"][0].decode() == shown == "".join(of.stream(""))
        assert result["finish_reason"][0] == b"stop"


# ---------------------------------------------------------------------- scores


def test_scores_are_the_log_softmax_of_the_full_forward_pass():
    texts = ["the cat sat on the mat", "", "你好", "x y " * 11]
    scores = task().score(texts)
    for text, score in zip(texts, scores, strict=True):
        ids = tokenizer().encode(text)
        logits = model("llama")(tf.constant([ids or [0]])).numpy()[0].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = log_probs[np.arange(len(ids) - 1), ids[1:]] if ids else np.zeros(0)
        # Nothing stands before the first token: it is not scored.
        if len(expected):
            assert_rounded(score["token_log_probs"][1:], expected, ADDITIONS)
        # The tokens' errors add up as independent ones do.
        bound = rounding(ADDITIONS * len(expected), np.min(expected, initial=0))
        assert score["token_log_probs"][:1] == [0.0] * bool(ids)
        assert score["num_tokens"] == len(ids)
        assert_within(score["log_prob"], expected.sum(), bound)
        mean = expected.mean() if len(expected) else 0.0
        assert score["perplexity"] == about(np.exp(-mean), ADDITIONS)
    assert task().score(texts[0])["log_prob"] == about(scores[0]["log_prob"], ADDITIONS)
    assert task().score("")["perplexity"] == 1


def test_scores_that_are_served_are_json_and_bad_rows_stand_alone():
    texts = ["the cat", "x" * 500, "", "on"]
    result = {k: v.numpy() for k, v in task().signatures["score"](tf.constant(texts)).items()}
    lengths = [len(tokenizer().encode(t)) for t in texts]
    lengths[1] = 0
    assert result["num_tokens"].tolist() == lengths
    assert [bool(e) for e in result["error"]] == [False, True, False, False]
    assert b"it has 500" in result["error"][1]
    rows = zip(
        result["token_ids_json"], result["token_log_probs_json"], texts, lengths, strict=True
    )
    for ids, log_probs, text, n in rows:
        assert json.loads(ids) == tokenizer().encode(text)[:n]
        first, *others = json.loads(log_probs) or [0]
        assert len(others) == max(n - 1, 0) and first == 0 and all(x < 0 for x in others)


def test_an_unlikely_text_has_a_finite_perplexity():
    of = scripted(spelled("a"))
    of.model.output_kernel.assign(of.model.output_kernel * 1e4)
    score = of.score("ab")
    assert score["log_prob"] < -1000 and 1e38 < score["perplexity"] < np.inf


def test_a_text_as_long_as_the_context_has_a_score():
    text = "x" * CONTEXT
    assert len(tokenizer().encode(text)) == CONTEXT
    assert task().score(text)["num_tokens"] == CONTEXT


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["gpt2", "sinusoidal"])
def test_other_architectures_generate_what_they_stream(name):
    options = {"max_new_tokens": 10, "temperature": 0.7}
    texts = task(name).generate(PROMPTS, **options)
    assert ["".join(task(name).stream(p, **options)) for p in PROMPTS[:2]] == texts[:2]


@pytest.mark.slow
def test_a_bfloat16_model_works_and_scores_nearly_alike():
    text = "the cat sat on the mat"
    half = task("llama", "bfloat16")
    assert isinstance(half.generate("the"), str)
    assert "".join(half.stream("the")) == half.generate("the")
    expected = task().score(text)["token_log_probs"]
    # 2 blocks of 7 products, each of which rounds once what it gives, and the logits: on one side
    bound = rounding(2 * 7 + 1, expected, "bfloat16") / SIDES
    assert_within(half.score(text)["token_log_probs"], expected, bound)


def test_a_mixed_precision_model_is_copied_and_the_original_left_alone():
    mixed = CausalLM(model("llama").config, seed=5, dtype="mixed_bfloat16")
    of = TextGeneration(mixed, tokenizer())
    assert of.model is not mixed
    assert {w.dtype for w in of.model.weights if len(w.shape) > 1} == {"bfloat16"}
    assert {w.dtype for w in mixed.weights} == {"float32"}
    assert TextGeneration(model("llama"), tokenizer()).model is model("llama")
    expected = task("llama", "bfloat16").score("the cat")["token_log_probs"]
    # Both are in bfloat16 and have the same weights.
    np.testing.assert_array_equal(of.score("the cat")["token_log_probs"], expected)


def test_a_tokenizer_that_does_not_fit_is_refused():
    config = model("llama").config
    small = CausalLM(type(config)(**{**vars(config), "vocab_size": 100}), seed=None)
    with pytest.raises(
        ValueError, match=f"the tokenizer has {tokenizer().vocab_size}, the model 1"
    ):
        TextGeneration(small, tokenizer())


def test_generate_takes_a_model_and_a_tokenizer():
    with pytest.raises(ValueError, match="needs the tokenizer"):
        generate(model("llama"), "a")
    text = generate(model("llama"), "the", tokenizer=tokenizer(), max_new_tokens=8)
    assert text == task().generate("the")
