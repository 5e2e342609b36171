"""Beam search compared with exhaustive search, plain Python, and full forward passes."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.keras_hub_decoding import decoding_of
from tests.generation.plain_beam_search import TableDecoder, beam_search, exhaustive, repeats
from tests.generation.record_beam_search import (
    CASES,
    MODEL,
    NUM_NEW_TOKENS,
    RECORDED,
    RECORDED_PROMPTS,
)
from tests.generation.toy_text_models import ADDITIONS, CONFIGS
from tests.rounding import assert_rounded
from tfllm import pretrained
from tfllm.config import ConfigError, GenerationConfig
from tfllm.generation import decoding
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search as in_graph
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import LENGTH, STOP, decode
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.generation.sampling import SamplingOptions
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.sizes import size

PROMPTS = [[1, 4, 2], [3], [2, 2, 4, 1, 3, 3], [4, 1]]
END = 0
VOCABULARY = 5
T5 = {"positions": "relative", "num_position_buckets": 8, "max_position_distance": 9}
NEVER = {"transformer": (), "t5": (), "marian": (1,)}
"""encoder-decoders, and the tokens that their texts never have"""


@pytest.fixture(autouse=True)
def small_capacity(monkeypatch):
    """Caches and texts must grow."""
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 2)


def run(decoder, prompts, limits, options, *, ends=(END,)):
    result = in_graph(
        decoder,
        tf.ragged.constant(prompts, tf.int32),
        tf.constant(limits, tf.int32),
        options,
        end_token_ids=tf.constant(ends),
    )
    return type(result)(*(tensor.numpy() for tensor in result))


def texts_of(result, row):
    found = np.isfinite(result.scores[row])
    pairs = zip(result.token_ids[row][found], result.lengths[row][found], strict=True)
    return [tuple(ids[:length].tolist()) for ids, length in pairs]


def assert_same(result, row, expected):
    assert texts_of(result, row) == [f.token_ids for f in expected]
    for name in ("score", "log_prob"):
        values = getattr(result, f"{name}s")[row][: len(expected)]
        assert_rounded(values, [getattr(f, name) for f in expected], ADDITIONS)


# ------------------------------------------------------------------ tiny models


@functools.cache
def model(name):
    """Of five tokens, with scores that differ much with all that went before."""
    if name in CONFIGS:
        sizes = {"vocab_size": VOCABULARY, "initializer_range": 0.7}
        return CausalLM(dataclasses.replace(CONFIGS[name], **sizes), seed=3)
    sizes = {"embedding_dim": 16, "num_heads": 2, "num_layers": 2, "feed_forward_dim": 32}
    made = EncoderDecoder(
        size(
            "t5-small" if name == "t5" else "transformer-tiny",
            **{**sizes, "head_dim": 8, "vocab_size": VOCABULARY, "max_sequence_length": 40},
            **(T5 if name == "t5" else {}),
            decoder_start_token_id=1,
            never_generated=NEVER[name],
        ),
        seed=4,
    )
    rng = np.random.default_rng(1)
    for weight in made.weights:
        if "norm" not in weight.path and "seed" not in weight.path:
            weight.assign(rng.normal(0, 0.5, weight.shape))
    return made


@functools.cache
def decoder(name):
    made = model(name)
    return CausalLMDecoder(made) if name in CONFIGS else EncoderDecoderDecoder(made)


@functools.cache
def forward(name):
    """The full forward pass, without a cache: a prompt and a text to the next token's logits."""
    made = model(name)

    def of(prompt, text):
        if name in CONFIGS:
            return made(tf.concat([prompt, text], 0)[tf.newaxis])[0, -1]
        start = [made.config.decoder_start_token_id]
        inputs = {"source_ids": prompt, "token_ids": tf.concat([start, text], 0)}
        return made({n: ids[tf.newaxis] for n, ids in inputs.items()})[0, -1]

    specs = [tf.TensorSpec([None], tf.int32)] * 2
    return tf.function(of, input_signature=specs, autograph=False)


def log_probs_of(name, prompt):
    return functools.partial(_log_probs, name, tuple(prompt))


@functools.cache
def _log_probs(name, prompt, text):
    row = forward(name)(prompt, np.array(text, np.int32)).numpy().astype(np.float64)
    return row - np.log(np.exp(row).sum())


MODELS = [*CONFIGS, *NEVER]


@pytest.mark.parametrize("name", MODELS)
def test_a_wide_beam_is_an_exhaustive_search(name):
    """Wider than the vocabulary: it holds all texts there are before the last token."""
    limits = [3, 2, 3, 1]
    for penalty in (1.0, -0.7):
        options = BeamOptions(width=20, num_best=7, length_penalty=penalty)
        result = run(decoder(name), PROMPTS, limits, options)
        for row, (prompt, limit) in enumerate(zip(PROMPTS, limits, strict=True)):
            expected = exhaustive(
                log_probs_of(name, prompt), limit, {END}, penalty, 7, never=NEVER.get(name, ())
            )
            assert_same(result, row, expected)


@pytest.mark.parametrize("name", MODELS)
def test_cached_beams_are_those_of_the_full_forward_pass_alone_and_among_others(name):
    limits = [7, 4, 9, 1]
    options = BeamOptions(width=3, length_penalty=0.5, no_repeat_ngram_size=3)
    together = run(decoder(name), PROMPTS, limits, options)
    for row, (prompt, limit) in enumerate(zip(PROMPTS, limits, strict=True)):
        own, never = (prompt, ()) if name in CONFIGS else ((), NEVER[name])
        expected = beam_search(
            log_probs_of(name, prompt), 3, limit, {END}, 0.5, ngram=3, prompt=own, never=never
        )
        assert_same(together, row, expected)
        assert_same(run(decoder(name), [prompt], [limit], options), 0, expected)


@pytest.mark.parametrize("name", ["windows", "transformer", "marian"])
def test_a_beam_of_one_is_greedy_decoding(name):
    limits = [12, 5, 9, 1]
    free = run(decoder(name), PROMPTS, limits, BeamOptions(width=1), ends=(-1,))
    end = free.token_ids[0, 0, 4]
    result = run(decoder(name), PROMPTS, limits, BeamOptions(width=1), ends=(end,))
    state = decode(
        decoder(name),
        tf.ragged.constant(PROMPTS, tf.int32),
        tf.constant(limits),
        SamplingOptions.of(GenerationConfig(), 4),
        end_token_ids=tf.constant([end]),
        token_bytes=tf.constant([str(i) for i in range(VOCABULARY)]),
        stops=lambda text: tf.zeros(tf.shape(text), tf.bool),
    )
    found = ["".join(map(str, texts_of(result, row)[0])) for row in range(4)]
    assert found == [text.decode() for text in state.text.numpy()]
    assert result.ends[:, 0].tolist() == state.ends.numpy().tolist()
    assert STOP in result.ends


# ------------------------------------------------------------------ the loop, by a table


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_a_row_stops_only_when_nothing_better_can_follow(penalty):
    """The plain search goes on to the limit."""
    prompts = [[i % 6, i % 5] for i in range(24)]
    table = TableDecoder(6, spread=1.5, seed=7)
    wanted = [1 + i % 3 for i in range(24)]
    options = {
        1: BeamOptions(width=4, num_best=1, length_penalty=penalty),
        4: BeamOptions(width=4, length_penalty=penalty),
        None: BeamOptions(width=4, length_penalty=penalty, num_wanted=tf.constant(wanted)),
    }
    results = {num: run(table, prompts, [14] * 24, given) for num, given in options.items()}
    for row, prompt in enumerate(prompts):
        expected = beam_search(table.log_probs_of(prompt), 4, 14, {END}, penalty)
        for num, result in results.items():
            found = type(result)(*(values[:, : num or wanted[row]] for values in result))
            assert_same(found, row, expected[: num or wanted[row]])


def test_a_row_stops_as_soon_as_nothing_better_can_follow():
    table = TableDecoder(6, spread=1.5, seed=7)
    table.table[:, END] += 3
    run(table, [[1, 2]], [60], BeamOptions(width=4, length_penalty=0.0, num_best=1))
    first = len(table.steps)
    table.steps.clear()
    run(table, [[1, 2]], [60], BeamOptions(width=4, length_penalty=0.0))
    assert 0 < first <= len(table.steps) < 20


@pytest.mark.parametrize("ends", [(0,), (2, 0, 5), (-1,)])
def test_any_width_and_any_number_of_end_tokens(ends):
    prompts = [[i % 6, i % 5] for i in range(9)]
    limits = [1 + i % 7 for i in range(9)]
    table = TableDecoder(6, seed=2)
    for width in (1, 2, 11):
        result = run(table, prompts, limits, BeamOptions(width=width), ends=ends)
        for row, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
            expected = beam_search(
                table.log_probs_of(prompt), width, limit, set(ends), 1.0, early=width == 1
            )
            assert_same(result, row, expected)


def test_early_stopping_ends_at_the_widths_complete_texts():
    prompts = [[i % 6, i % 5] for i in range(24)]
    table = TableDecoder(6, spread=1.5, seed=7)
    options = BeamOptions(width=3, early_stopping=True)
    result = run(table, prompts, [14] * 24, options)
    differs = 0
    for row, prompt in enumerate(prompts):
        of = table.log_probs_of(prompt)
        expected = beam_search(of, 3, 14, {END}, 1.0, early=True)
        assert_same(result, row, expected)
        differs += expected != beam_search(of, 3, 14, {END}, 1.0)
    assert differs


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sequences_never_repeat_and_those_of_the_prompt_count(size):
    prompts = [[1, 2, 3, 1], [4], [5, 5, 1]]
    table = TableDecoder(6, spread=0.5, seed=size)
    table.table[:, 3] += 2.5  # it wants to say the same again and again
    table.table[:, END] -= 4
    free = run(table, prompts, [9] * 3, BeamOptions(width=3))
    options = BeamOptions(width=3, no_repeat_ngram_size=size)
    result = run(table, prompts, [9] * 3, options)

    def any_repeats(tokens):
        return any(repeats(tokens[: i + 1], size) for i in range(len(tokens)))

    for row, prompt in enumerate(prompts):
        expected = beam_search(
            table.log_probs_of(prompt), 3, 9, {END}, 1.0, ngram=size, prompt=tuple(prompt)
        )
        assert_same(result, row, expected)
        assert any(any_repeats((*prompt, *text)) for text in texts_of(free, row))
        own = len(prompt)
        for text in texts_of(result, row):
            assert not any(repeats((*prompt, *text)[: own + i + 1], size) for i in range(len(text)))


def test_tokens_that_no_text_has_keep_their_share_of_the_probability():
    """Were the others given it, every score would be higher, and other texts the best."""
    prompts = [[i % 6, i % 5] for i in range(12)]
    table, never = TableDecoder(6, spread=1.5, seed=3), (2, 4)
    table.table[::2, never] += 3  # half of all times they would be the likeliest
    table.never_generated = never
    options = BeamOptions(width=36, num_best=9)
    result = run(table, prompts, [3] * 12, options)
    reordered = 0
    for row, prompt in enumerate(prompts):
        of = table.log_probs_of(prompt)

        def renormalised(text, of=of):
            log_probs = of(text)
            return log_probs - np.log(1 - np.exp(log_probs[list(never)]).sum())

        expected = exhaustive(of, 3, {END}, 1.0, 9, never=never)
        assert_same(result, row, expected)
        others = exhaustive(renormalised, 3, {END}, 1.0, 9, never=never)
        assert all(e.score < o.score - 1e-3 for e, o in zip(expected, others, strict=True))
        reordered += [e.token_ids for e in expected] != [o.token_ids for o in others]
    assert reordered


def test_a_token_that_no_text_has_fills_no_beam_of_a_small_vocabulary():
    """There are more candidates than tokens that may follow."""
    table = TableDecoder(4, seed=1)
    table.never_generated = (1, 3)
    result = run(table, [[1]], [2], BeamOptions(width=4))
    assert sorted(texts_of(result, 0)) == [(), (2,), (2, 2)]
    assert (result.scores[0] > -1e3).sum() == 3


def test_where_nothing_may_follow_the_texts_so_far_are_the_result():
    table = TableDecoder(4, seed=1)
    result = run(table, [[1]], [9], BeamOptions(width=2, no_repeat_ngram_size=1), ends=(-1,))
    assert sorted(texts_of(result, 0)[0]) == [0, 2, 3]
    assert result.ends[0, 0] == LENGTH


def test_limits_of_each_row_and_rows_that_do_nothing():
    table = TableDecoder(6, seed=5)
    limits = [0, 4, 100, 0]
    prompts = [[1], [2], [3] * 60, [4]]  # of a context of 64
    result = run(table, prompts, limits, BeamOptions(width=2), ends=(-1,))
    assert result.lengths.tolist() == [[0, 0], [4, 4], [4, 4], [0, 0]]
    assert np.isneginf(result.scores[[0, 3]]).all() and np.isfinite(result.scores[1:3]).all()
    none = run(table, [[1], [2]], [0, 0], BeamOptions(width=2))
    assert none.token_ids.shape == (2, 2, 0)


def test_no_row_at_all_is_no_error():
    empty = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), tf.zeros([0], tf.int64))
    result = in_graph(
        decoder("llama"),
        empty,
        tf.zeros([0], tf.int32),
        BeamOptions(3),
        end_token_ids=tf.constant([END]),
    )
    assert result.scores.shape == [0, 3] and result.token_ids.shape[:2] == [0, 3]


def test_a_penalty_of_each_row():
    table = TableDecoder(6, spread=1.5, seed=7)
    prompts = [[1, 2], [1, 2], [1, 2]]
    penalties = [0.0, 1.0, 2.0]
    result = run(table, prompts, [14] * 3, BeamOptions(3, length_penalty=tf.constant(penalties)))
    for row, penalty in enumerate(penalties):
        assert_same(result, row, beam_search(table.log_probs_of([1, 2]), 3, 14, {END}, penalty))


def in_a_function(decoder, options, ends):
    def search(ids, splits, limits):
        prompts = tf.RaggedTensor.from_row_splits(ids, splits)
        return in_graph(decoder, prompts, limits, options, end_token_ids=tf.constant(ends))

    specs = [tf.TensorSpec([None], t) for t in (tf.int32, tf.int64, tf.int32)]
    function = tf.function(search, input_signature=specs, autograph=False)

    def of(prompts, limits):
        ragged = tf.ragged.constant(prompts, tf.int32)
        result = function(ragged.values, ragged.row_splits, limits)
        return type(result)(*(tensor.numpy() for tensor in result))

    return of


def test_the_graph_finds_what_is_found_eagerly():
    limits, options = [7, 4, 9, 1], BeamOptions(3, no_repeat_ngram_size=2)
    result = in_a_function(decoder("windows"), options, (END,))(PROMPTS, limits)
    expected = run(decoder("windows"), PROMPTS, limits, options)
    for row in range(4):
        assert texts_of(result, row) == texts_of(expected, row)
    assert_rounded(result.scores, expected.scores, ADDITIONS)


def test_a_prompt_is_held_once_for_all_beams_and_no_cache_is_copied(monkeypatch):
    made = model("llama")
    original, seen = made.hidden_states, []

    def spy(token_ids, **options):
        cache = options["cache"].keys_values[0]
        seen.append((tuple(token_ids.shape), cache.shape[1], cache.shape[3]))
        return original(token_ids, **options)

    monkeypatch.setattr(made, "hidden_states", spy)
    run(decoder("llama"), [PROMPTS[2], PROMPTS[0]], [3, 3], BeamOptions(4), ends=(-1,))
    assert seen == [((2, 6), 2, 8), ((2, 4), 2, 6 + 4 * 2), ((2, 4), 2, 6 + 4 * 2)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_texts_and_scores_are_those_of_transformers(case):
    """Recorded by record_beam_search.py."""
    recorded = np.load(RECORDED)
    width, penalty, ngram, early = CASES[case]
    options = BeamOptions(
        width=width,
        length_penalty=penalty,
        no_repeat_ngram_size=ngram,
        early_stopping=early,
    )
    ends = tuple(recorded["end_token_ids"].tolist())
    limits = [NUM_NEW_TOKENS] * len(RECORDED_PROMPTS)
    result = run(recorded_decoder(), RECORDED_PROMPTS, limits, options, ends=ends)
    assert STOP in result.ends
    for row in range(len(RECORDED_PROMPTS)):
        expected = []
        for ids in recorded[f"ids_{case}"][row].tolist():
            cut = [i for i, token in enumerate(ids) if token in ends or token < 0]
            expected.append(tuple(ids[: cut[0]] if cut else ids))
        assert texts_of(result, row) == expected
    assert_rounded(result.scores, recorded[f"scores_{case}"], ADDITIONS)


@functools.cache
def recorded_decoder():
    return CausalLMDecoder(pretrained.load(MODEL).model)


@pytest.mark.parametrize("name", ["GPT2", pytest.param("Qwen3_5", marks=pytest.mark.slow)])
def test_beams_of_a_keras_hub_model(name):
    """Rows at columns of their own, and a recurrent state, which is copied with its beam."""
    of = decoding_of(name)
    limits = [6, 4, 5]
    prompts = [[7, 8, 9, 25, 11], [5], [10, 20]]

    @functools.cache
    def log_probs(ids):
        padded = [*ids, *[1] * (11 - len(ids))]  # one length, which is traced once
        row = of.logits(padded)[len(ids) - 1].astype(np.float64)
        return row - np.log(np.exp(row - row.max()).sum()) - row.max()

    found = in_a_function(of.decoder, BeamOptions(3), (3,))(prompts, limits)
    for row, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        plain = beam_search(lambda text, p=prompt: log_probs((*p, *text)), 3, limit, {3}, 1.0)
        assert_same(found, row, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1; received 0"),
        ({"width": 3, "num_best": 4}, "between 1 and the width, 3; received 4"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
        ({"length_penalty": float("nan")}, r"length_penalty must lie in \[-5, 5\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BeamOptions(**options)


def test_a_row_ends_even_where_the_power_of_its_length_is_infinite():
    """A served row says its own penalty; one that is refused must not hold up the others."""
    limits = [4, 4, 4, 4]
    options = BeamOptions(width=2, length_penalty=tf.constant([100.0, 1.0, 1e30, -100.0]))
    result = run(decoder("transformer"), PROMPTS, limits, options)
    alone = run(decoder("transformer"), PROMPTS[1:2], [4], BeamOptions(width=2))
    assert texts_of(result, 1) == texts_of(alone, 0)
