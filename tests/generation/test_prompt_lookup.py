"""Prompt lookup decoding compared with plain decoding, and its drafts with a plain search."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.toy_text_models import (
    CONFIGS,
    CONTEXT,
    SCRIPT_LENGTH,
    TOKEN_BYTES,
    byte_ids,
    model,
    no_stop,
    scripted,
    task,
    tokenizer,
    tokens_of,
)
from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation import decoding, prompt_lookup
from tfllm.generation.causal_lm_decoder import NOT_OWN, CausalLMDecoder
from tfllm.generation.decoding import LENGTH, STOP, decode
from tfllm.generation.prompt_lookup import find_drafts
from tfllm.generation.sampling import SamplingOptions
from tfllm.generation.stop_strings import StopStrings
from tfllm.generation.token_rules import NO_RULES, TokenRules
from tfllm.tasks import TextGeneration
from tfllm.tasks.model_generation import generate

NEVER = -1
PROMPTS = [[7, 8, 9, 250, 11, 12, 13], [5], [100, 200], [*range(40, 50), 3]]
REPEATED = [
    [7, 8, 9, 250, 7, 8, 9, 250, 7, 8, 9],
    [5],
    [100, 200, 100, 200, 100],
    [40, 41, 42, 43, 40, 41, 42, 44, 40, 41, 42, 45, 46],
]
LIMITS = [20, 7, 24, 15]


def options_of(rows: int, **values) -> SamplingOptions:
    """Options of rows, each one value or a list of one a row."""
    options = SamplingOptions.of(GenerationConfig(), rows)
    given = {
        name: tf.broadcast_to(tf.constant(value, getattr(options, name).dtype), [rows])
        for name, value in values.items()
    }
    return options._replace(**given)


def run(gpt, prompts, limits, options, *, end=NEVER, stops=no_stop, rules=NO_RULES, lookup=True):
    return decode(
        CausalLMDecoder(gpt),
        tf.ragged.constant(prompts, tf.int32),
        tf.constant(limits, tf.int32),
        options,
        end_token_ids=tf.constant([end]),
        token_bytes=TOKEN_BYTES,
        stops=stops,
        token_rules=rules,
        advance=prompt_lookup.advance_to_draft if lookup else decoding.advance,
    )


def assert_same(state, plain):
    """The outcomes of each row are the same."""
    assert tokens_of(state) == tokens_of(plain)
    assert state.counts.numpy().tolist() == plain.counts.numpy().tolist()
    assert state.ends.numpy().tolist() == plain.ends.numpy().tolist()


@pytest.fixture
def widths(monkeypatch):
    """The number of tokens of each forward pass of the models of these tests."""

    def of(gpt):
        original, found = gpt.hidden_states, []

        def spy(token_ids, **options):
            found.append(token_ids.shape[1])
            return original(token_ids, **options)

        monkeypatch.setattr(gpt, "hidden_states", spy)
        return found

    return of


# ---------------------------------------------------------------------- drafts


def draft(row: list[int], most: int, match_length: int) -> list[int]:
    """A plain search for the draft of a row."""
    for length in dict.fromkeys((max(match_length, 3), match_length)):
        for begin in range(len(row) - length - 1, -1, -1):
            if row[begin : begin + length] == row[-length:]:
                text = list(row)
                for place in range(begin + length, begin + length + most):
                    text.append(text[place])
                return text[len(row) :]
    return []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=12),
            st.integers(0, 6),
            st.integers(2, 4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_draft_is_what_followed_in_its_own_row(rows):
    """Whatever is beyond the row's end: here its own tokens over and over, which would match."""
    size = 14
    ids = [list(itertools.islice(itertools.cycle(row), size)) for row, _, _ in rows]
    found = find_drafts(
        tf.constant(ids),
        tf.constant([len(row) for row, _, _ in rows]),
        tf.constant([most for _, most, _ in rows]),
        tf.constant([length for _, _, length in rows]),
    )
    drafts = [
        ids[:n]
        for ids, n in zip(found.token_ids.numpy().tolist(), found.counts.numpy(), strict=True)
    ]
    assert drafts == [draft(*row) for row in rows]


# ---------------------------------------------------------------------- the same text

SAMPLED = {
    "temperature": [0.0, 0.8, 1.2, 0.6],
    "top_k": [0, 20, 0, 0],
    "top_p": [1.0, 0.9, 0.95, 1.0],
    "min_p": [0.0, 0.0, 0.02, 0.1],
    "repetition_penalty": [1.0, 1.3, 1.0, 1.1],
    "seed": [0, 7, 3, 1],
}


# The cache of the first grows, that of the second need not.
@pytest.mark.parametrize(
    ("values", "capacity"), [({}, 2), (SAMPLED, 64)], ids=["greedy", "sampled"]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_each_row_has_the_text_of_plain_decoding(name, values, capacity, monkeypatch):
    """Alone and in a batch, whose rows accept different numbers of tokens."""
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", capacity)
    gpt = model(name)
    plain = run(gpt, REPEATED, LIMITS, options_of(4, **values), lookup=False)
    options = options_of(4, **values, prompt_lookup_tokens=[5, 0, 16, 3])
    assert_same(run(gpt, REPEATED, LIMITS, options), plain)
    for row in range(4):
        one = SamplingOptions(*(o[row : row + 1] for o in options))
        alone = run(gpt, [REPEATED[row]], [LIMITS[row]], one)
        assert tokens_of(alone) == [tokens_of(plain)[row]]
        # A row alone has no entries that are not its own.
        own = alone.cache.positions.numpy()[0, : int(alone.cache.next_index)]
        assert own.tolist() == list(range(len(own)))


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_models_of_other_dtypes_have_the_text_of_plain_decoding(dtype, widths):
    gpt = model("llama", dtype)
    plain = run(gpt, REPEATED, LIMITS, options_of(4), lookup=False)
    found = widths(gpt)
    assert_same(run(gpt, REPEATED, LIMITS, options_of(4, prompt_lookup_tokens=8)), plain)
    assert max(found[1:]) > 1


def test_random_texts_of_a_batch_with_drafts_that_are_right_and_wrong(widths):
    """The texts of this model repeat themselves, so that many drafts are accepted, and not all."""
    gpt = model("llama")
    plain = run(gpt, PROMPTS, [35] * 4, options_of(4), lookup=False)
    found = widths(gpt)
    state = run(gpt, PROMPTS, [35] * 4, options_of(4, prompt_lookup_tokens=4))
    assert_same(state, plain)
    assert 1 in found[1:] and 5 in found[1:]
    # The rows accepted different numbers: some entries are not theirs.
    positions = state.cache.positions.numpy()[:, : int(state.cache.next_index)]
    assert (positions == NOT_OWN).any()
    for row in positions:
        own = row[row != NOT_OWN]
        assert own.tolist() == list(range(len(own)))


@pytest.mark.parametrize(
    "rules",
    [
        TokenRules(min_new_tokens=12),
        TokenRules(min_length=20),
        TokenRules(forced_eos_token_id=(3,)),
        TokenRules(suppress_tokens=(7, 250, 41), begin_suppress_tokens=(100,)),
    ],
    ids=["min_new_tokens", "min_length", "forced", "suppressed"],
)
def test_token_rules_hold_inside_a_draft(rules):
    gpt = model("llama")
    free = tokens_of(run(gpt, REPEATED, LIMITS, options_of(4), lookup=False))
    end = 3 if rules.forced_eos_token_id else free[0][5]
    plain = run(gpt, REPEATED, LIMITS, options_of(4), end=end, rules=rules, lookup=False)
    options = options_of(4, prompt_lookup_tokens=6)
    assert_same(run(gpt, REPEATED, LIMITS, options, end=end, rules=rules), plain)


# ---------------------------------------------------------------------- scripted texts


def ids_of(text: bytes | str) -> list[int]:
    data = text.encode() if isinstance(text, str) else text
    return [byte_ids()[bytes([byte])] for byte in data]


def script(text, prompt_length: int):
    """A model that continues a prompt of so many tokens with a text, then ends."""
    return scripted([0] * (prompt_length - 1) + list(text)).model


def test_a_text_that_repeats_its_prompt_needs_few_passes(widths):
    prompt = ids_of("one two three four five six ")
    gpt = script(prompt[4:], len(prompt) + 4)
    found = widths(gpt)
    state = run(gpt, [prompt + prompt[:4]], [24], options_of(1, prompt_lookup_tokens=8))
    assert tokens_of(state) == [prompt[4:28]]
    # The first token comes with the prompt, then 9 with each draft of 8.
    assert found == [len(prompt) + 4, 9, 9, 5]


def test_a_text_that_repeats_nothing_is_decoded_token_by_token(widths):
    prompt, text = ids_of("abcdefgh"), ids_of("ijklmnopqrstuv")
    gpt = script(text, len(prompt))
    found = widths(gpt)
    state = run(gpt, [prompt], [len(text)], options_of(1, prompt_lookup_tokens=16))
    assert tokens_of(state) == [text]
    assert found == [len(prompt), *[1] * (len(text) - 1)]


def test_wrong_drafts_become_rare(widths):
    """After a draft that is rejected whole, the next one must match one token more:
    here every pair of tokens occurs again, but is followed by another token each time."""
    letters = "abacadaeafag"
    text = ids_of("xya1xya2xya3xya4xya5xya6")
    prompt = ids_of(letters)
    gpt = script(text, len(prompt))
    found = widths(gpt)
    state = run(gpt, [prompt], [len(text)], options_of(1, prompt_lookup_tokens=4))
    assert tokens_of(state) == [text]
    plain = run(gpt, [prompt], [len(text)], options_of(1), lookup=False)
    assert_same(state, plain)
    assert sum(width > 1 for width in found[1:]) < len(text) / 2


def test_an_end_token_inside_a_draft_ends_the_row():
    end = 0
    prompt = [*ids_of("abcde"), end, *ids_of("fghabc")]
    gpt = script([*ids_of("de"), end, *ids_of("fgh")], len(prompt))
    options = options_of(1, prompt_lookup_tokens=8)
    state = run(gpt, [prompt], [20], options, end=end)
    assert tokens_of(state) == [ids_of("de")]
    assert state.ends.numpy().tolist() == [STOP]
    assert_same(state, run(gpt, [prompt], [20], options_of(1), end=end, lookup=False))


def test_a_stop_string_inside_a_draft_ends_the_row():
    prompt = ids_of("abcdefghabc")
    gpt = script(ids_of("defghabc"), len(prompt))
    d, e, f = (f"<{i}>" for i in ids_of("def"))
    stops = StopStrings(tf.constant([e + f]))
    state = run(gpt, [prompt], [20], options_of(1, prompt_lookup_tokens=8), stops=stops)
    assert state.text.numpy()[0].decode() == d + e + f
    assert state.ends.numpy().tolist() == [STOP]


@pytest.mark.parametrize("limit", range(1, 10))
def test_a_limit_inside_a_draft_ends_the_row(limit):
    prompt = ids_of("abcdefghabc")
    gpt = script(ids_of("defghabcde"), len(prompt))
    state = run(gpt, [prompt], [limit], options_of(1, prompt_lookup_tokens=8))
    assert tokens_of(state) == [ids_of("defghabcde")[:limit]]
    assert state.ends.numpy().tolist() == [LENGTH]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_context_is_the_limit_inside_a_draft(name):
    prompts = [([7, 8, 9, 250] * 12)[: CONTEXT - 5], [5], ([7, 8, 9] * 16)[: CONTEXT - 1]]
    limits = [100, 20, 100]
    plain = run(model(name), prompts, limits, options_of(3), lookup=False)
    state = run(model(name), prompts, limits, options_of(3, prompt_lookup_tokens=16))
    assert_same(state, plain)
    assert state.counts.numpy().tolist() == [5, 20, 1]


def test_rows_that_accept_many_tokens_and_rows_without_drafts_fill_a_growing_cache(monkeypatch):
    """The rows without drafts have few entries of their own among those that others filled."""
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 1)
    prompt = ids_of("abcdefghabc")
    text = ids_of("defghabcdefghabcdefghabcdefghabc")
    gpt = script(text, len(prompt))
    options = options_of(3, prompt_lookup_tokens=[0, 16, 2])
    state = run(gpt, [prompt] * 3, [30] * 3, options)
    assert tokens_of(state) == [text[:30]] * 3
    assert len(prompt) + 30 < SCRIPT_LENGTH


# ---------------------------------------------------------------------- in the graph

TEXTS = ["the cat sat on the mat, and the cat sat", "été naïve été na", "a", "on on on on on"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_function_of_a_task_gives_the_text_of_plain_decoding(name):
    options = {
        "max_new_tokens": [30, 20, 25, 9],
        "temperature": [0.0, 0.7, 0.0, 1.0],
        "repetition_penalty": [1.0, 1.2, 1.0, 1.0],
        "stop": [("zz",), (), (), ("q", "on")],
        "seed": [0, 3, 0, 5],
    }
    plain = task(name).generate(TEXTS, **options)
    assert task(name).generate(TEXTS, **options, prompt_lookup_tokens=[8, 4, 0, 16]) == plain
    samples = task(name).generate(TEXTS[0], temperature=0.7, num_samples=3, max_new_tokens=20)
    assert samples == task(name).generate(
        TEXTS[0], temperature=0.7, num_samples=3, max_new_tokens=20, prompt_lookup_tokens=8
    )


def test_a_stream_gives_the_same_text_in_fewer_steps():
    prompt = ids_of("abcdefghabc")
    text = ids_of("defghabcdefghabcdefgh")
    copying = scripted([0] * (len(prompt) - 1) + text)
    copying = TextGeneration(copying.model, tokenizer(), GenerationConfig(max_new_tokens=21))
    pieces = list(copying.stream("abcdefghabc", prompt_lookup_tokens=8))
    plain = list(copying.stream("abcdefghabc"))
    assert "".join(pieces) == "".join(plain) == "defghabcdefghabcdefgh"
    assert len(pieces) < len(plain) == 21


def test_a_value_out_of_range_is_an_error_of_its_row():
    inputs = {
        name: tf.repeat(value, 3) for name, value in task().input_defaults("generate").items()
    } | {"prompt_lookup_tokens": tf.constant([0, 17, 4])}
    result = task().signatures["generate"](prompt=tf.constant(TEXTS[:3]), **inputs)
    errors = [error.decode() for error in result["error"].numpy()]
    assert errors == [
        "",
        "prompt_lookup_tokens must lie in [0, 16] (0: no lookup); received 17",
        "",
    ]
    plain = task().generate([TEXTS[0], TEXTS[2]])
    assert [result["text"].numpy()[row].decode() for row in (0, 2)] == plain


def test_beam_search_refuses_it_by_name():
    with pytest.raises(ConfigError, match="prompt_lookup_tokens must be 0 where num_beams"):
        task().generate(TEXTS[0], num_beams=2, prompt_lookup_tokens=4)


def test_token_ids_are_continued_alike():
    prompt = np.array(REPEATED[0])
    plain = generate(model("llama"), prompt, max_new_tokens=20)
    drafted = generate(model("llama"), prompt, max_new_tokens=20, prompt_lookup_tokens=8)
    assert plain.tolist() == drafted.tolist() and len(plain) == 20
