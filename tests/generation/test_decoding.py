"""Decoding with a cache compared with the full forward pass, which has none."""

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.toy_text_models import (
    CONFIGS,
    CONTEXT,
    TOKEN_BYTES,
    model,
    no_stop,
    tokens_of,
)
from tests.rounding import assert_within, weight_rounding
from tfllm.config import GenerationConfig
from tfllm.generation import decoding
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import LENGTH, STOP, decode
from tfllm.generation.sampling import SamplingOptions

PROMPTS = [[7, 8, 9, 250, 11, 12, 13], [5], [100, 200], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 3]]
NEVER = -1


def run(name, prompts, limits, *, dtype="float32", end=NEVER, stops=no_stop, options=None):
    return decode(
        CausalLMDecoder(model(name, dtype)),
        tf.ragged.constant(prompts, tf.int32),
        tf.constant(limits, tf.int32),
        options or SamplingOptions.of(GenerationConfig(), len(prompts)),
        end_token_ids=tf.constant([end]),
        token_bytes=TOKEN_BYTES,
        stops=stops,
    )


@pytest.fixture
def logits_seen(monkeypatch):
    """What the sampler is given, step by step."""
    logits = []
    original = decoding.next_tokens

    def spy(given, *rest):
        logits.append(given.numpy())
        return original(given, *rest)

    monkeypatch.setattr(decoding, "next_tokens", spy)
    return logits


@pytest.mark.parametrize("capacity", [1, 64])  # of a cache that grows, and of one that need not
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_logits_are_those_of_the_full_forward_pass(
    name, dtype, capacity, logits_seen, monkeypatch
):
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", capacity)
    state = run(name, PROMPTS, [6] * 4, dtype=dtype)
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, tokens_of(state), strict=True)):
        assert len(tokens) == 6
        ids = tf.constant([prompt + tokens[:-1]])
        full = model(name, dtype)(ids).numpy()[0, len(prompt) - 1 :]
        exact = model(name, "float32")
        bound = weight_rounding(exact, lambda ids=ids, exact=exact: exact(ids), dtype)
        bound = bound[0, len(prompt) - 1 :]
        cached = np.stack([logits[row] for logits in logits_seen])
        assert_within(cached, full, bound)
        if dtype == "float32":
            assert full.argmax(-1).tolist() == tokens
            assert np.ptp(full) > 1  # a model that says the same everywhere would prove nothing


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_gives_the_same_tokens_alone_and_among_others(name):
    options = SamplingOptions.of(GenerationConfig(temperature=0.8, top_p=0.9), 4)
    options = options._replace(
        seed=tf.constant([3, 1, 4, 1]),
        temperature=tf.constant([0.0, 0.8, 1.2, 0.8]),
        repetition_penalty=tf.constant([1.0, 1.4, 1.0, 1.4]),
    )
    limits = [5, 7, 2, 6]
    together = tokens_of(run(name, PROMPTS, limits, options=options))
    assert [len(tokens) for tokens in together] == limits
    for row in range(4):
        one = SamplingOptions(*(o[row : row + 1] for o in options))
        alone = tokens_of(run(name, [PROMPTS[row]], [limits[row]], options=one))
        assert alone == [together[row]]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_at_the_end_of_the_context_ends_and_others_go_on(name):
    long = [3 + i for i in range(CONTEXT - 2)]
    state = run(name, [long, [5], long[:-3]], [100, 8, 100])
    assert state.counts.numpy().tolist() == [2, 8, 5]
    assert state.ends.numpy().tolist() == [LENGTH] * 3
    alone = run(name, [[5]], [8])
    assert tokens_of(alone)[0] == tokens_of(state)[1]


def test_no_row_at_all_is_no_error():
    state = decode(
        CausalLMDecoder(model("llama")),
        tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), tf.zeros([0], tf.int64)),
        tf.zeros([0], tf.int32),
        SamplingOptions.of(GenerationConfig(), 0),
        end_token_ids=tf.constant([0]),
        token_bytes=TOKEN_BYTES,
        stops=no_stop,
    )
    assert state.counts.shape == [0] and state.text.shape == [0]


def test_an_end_token_ends_its_row_and_is_not_part_of_the_text():
    free = tokens_of(run("llama", PROMPTS, [6] * 4))
    end = free[1][3]
    state = run("llama", PROMPTS, [6] * 4, end=end)
    for row, tokens in enumerate(free):
        expected = tokens[: tokens.index(end)] if end in tokens else tokens
        assert tokens_of(state)[row] == expected
        assert state.ends.numpy()[row] == (STOP if end in tokens else LENGTH)
        assert state.counts.numpy()[row] == len(expected)


def test_a_stop_rule_ends_its_row_and_wins_over_the_limit():
    free = tokens_of(run("llama", PROMPTS, [4] * 4))
    marks = [f"<{free[0][1]}>", f"<{free[1][3]}>"]  # the second one at the limit itself

    def stops(text):
        found = tf.strings.regex_full_match(text, f".*({marks[0]}|{marks[1]}).*")
        return found & [True, True, False, False]

    state = run("llama", PROMPTS, [4] * 4, stops=stops)
    ends = state.ends.numpy().tolist()
    assert ends == [STOP, STOP, LENGTH, LENGTH]
    assert tokens_of(state)[2:] == free[2:]
    assert tokens_of(state)[0] == free[0][: state.counts.numpy()[0]]
    assert marks[0] in state.text.numpy()[0].decode()


def test_a_row_of_limit_0_does_nothing():
    state = run("llama", PROMPTS, [0, 3, 0, 0])
    assert state.counts.numpy().tolist() == [0, 3, 0, 0]
    assert state.ends.numpy().tolist() == [LENGTH] * 4
    assert state.text.numpy()[[0, 2, 3]].tolist() == [b""] * 3


def test_repetition_penalty_counts_the_prompt_and_the_text():
    options = SamplingOptions.of(GenerationConfig(repetition_penalty=1e6), 4)
    state = run("llama", PROMPTS, [10] * 4, options=options)
    for prompt, tokens in zip(PROMPTS, tokens_of(state), strict=True):
        assert len(set(tokens)) == 10 and not set(tokens) & set(prompt)


def test_a_prompt_costs_its_own_length(monkeypatch):
    gpt = model("llama")
    original, widths = gpt.hidden_states, []

    def spy(token_ids, **options):
        widths.append((token_ids.shape[1], options["cache"].keys_values[0].shape[3]))
        return original(token_ids, **options)

    monkeypatch.setattr(gpt, "hidden_states", spy)
    run("llama", [PROMPTS[0]], [4])
    # Once with the prompt, then a token at a time; both fit in the cache.
    assert widths == [(7, 11), (1, 11), (1, 11), (1, 11)]


def test_a_token_costs_no_more_than_twice_the_tokens_so_far(monkeypatch):
    """Nor does a large limit cost anything that is not used."""
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 2)
    gpt = model("llama")
    original, lengths = gpt.hidden_states, []

    def spy(token_ids, **options):
        lengths.append(options["cache"].keys_values[0].shape[3])
        return original(token_ids, **options)

    monkeypatch.setattr(gpt, "hidden_states", spy)
    state = run("llama", [PROMPTS[1]], [11])
    assert lengths == [3, 3, 3, 5, 5, 9, 9, 9, 9, 12, 12]
    lengths.clear()
    end = tokens_of(state)[0][3]
    ended = run("llama", [PROMPTS[1]], [40], end=end)
    assert len(lengths) <= 4 and ended.cache.keys_values[0].shape[3] <= 5
