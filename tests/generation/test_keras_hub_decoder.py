"""KerasHub's cached call in tfllm's loop, compared with its forward pass and its `generate`."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.generation.keras_hub_decoding import CONTEXT, decoding_of
from tests.pretrained.keras_hub_models import (
    BACKBONES,
    REFUSED,
    architectures,
    causal_lm,
)
from tests.rounding import assert_within, weight_rounding
from tfllm.config import GenerationConfig
from tfllm.generation import decoding
from tfllm.generation.decoding import LENGTH
from tfllm.generation.keras_hub_decoder import KerasHubDecoder
from tfllm.generation.sampling import SamplingOptions

PROMPTS = [[7, 8, 9, 25, 11, 12, 13], [5], [10, 20], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 3]]
NEW = 8
DECODED = sorted(set(BACKBONES) - set(REFUSED))
SLOW = (pytest.mark.slow, pytest.mark.exhaustive)
QUICK = ["GPT2"]
# KerasHub gives the last token of a prompt twice, which a recurrent state remembers.
WRONG_IN_KERAS_HUB = ["Qwen3_5", "Qwen3_5Moe"]


def quick(names):
    return [n if n in QUICK else pytest.param(n, marks=SLOW) for n in names]


@pytest.fixture(autouse=True)
def small_capacity(monkeypatch):
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 2)


def test_every_architecture_of_this_keras_hub_is_decoded_or_refused():
    assert set(architectures()) == set(DECODED) | set(REFUSED)
    assert len(DECODED) > 20


@pytest.mark.parametrize("name", quick(DECODED))
def test_greedy_tokens_are_the_forward_passs_and_those_of_keras_hub(name):
    """In one batch of prompts of several lengths, and alone."""
    of = decoding_of(name)
    together = of.tokens(PROMPTS, [NEW] * 4)
    assert [len(tokens) for tokens in together] == [NEW] * 4
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        ids = prompt + tokens
        # One length for all, which is traced once: what is behind a token does not change it.
        padded = (ids + [1] * CONTEXT)[: len(PROMPTS[3]) + NEW]
        full = of.logits(padded)[len(prompt) - 1 : len(ids) - 1]
        best, second = np.sort(full, -1)[:, :-3:-1].T
        assert (full.argmax(-1) == tokens).all() and np.ptp(full) > 1
        assert (best - second).min() > 1e-4  # no tie decides it
    assert [of.tokens([p], [NEW])[0] for p in PROMPTS] == together
    if name not in WRONG_IN_KERAS_HUB:
        assert keras_hubs_own(of.model, PROMPTS) == together


def keras_hubs_own(model, prompts):
    """What KerasHub's greedy `generate` makes of ids, in one batch."""
    width = max(map(len, prompts)) + NEW
    ids = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    mask = np.arange(width) < np.array([[len(p)] for p in prompts])
    model.compile(sampler="greedy")
    model.jit_compile = False
    step = model.make_generate_function()
    inputs = {"token_ids": tf.constant(ids), "padding_mask": tf.constant(mask)}
    result = step(inputs, stop_token_ids=None)["token_ids"].numpy()
    return [row[len(p) : len(p) + NEW].tolist() for row, p in zip(result, prompts, strict=True)]


@pytest.mark.parametrize("name", quick(["GPT2", "Gemma3", "Qwen3_5"]))
def test_a_row_gives_the_same_tokens_alone_and_among_others(name):
    """With options of its own, limits that end rows before others begin, and a cache that grows."""
    of = decoding_of(name)
    options = SamplingOptions.of(GenerationConfig(temperature=0.8, top_p=0.9), 4)
    options = options._replace(
        seed=tf.constant([3, 1, 4, 1]),
        temperature=tf.constant([0.0, 0.8, 1.2, 0.8]),
        repetition_penalty=tf.constant([1.0, 1.4, 1.0, 1.4]),
    )
    limits = [5, 7, 2, 6]
    together = of.tokens(PROMPTS, limits, options)
    assert [len(tokens) for tokens in together] == limits
    for row in range(4):
        one = SamplingOptions(*(o[row : row + 1] for o in options))
        assert of.tokens([PROMPTS[row]], [limits[row]], one) == [together[row]]
    assert len({tuple(t) for t in together}) == 4


def test_columns_at_which_no_row_is_told_anything_are_jumped_over(monkeypatch):
    steps = []
    decoder = decoding_of("GPT2").decoder
    original = decoder.call_with_cache  # not called by the prompts' own pass

    def spy(token_ids, cache, column):
        tf.py_function(lambda c: steps.append(int(c)), [column], [])
        return original(token_ids, cache, column)

    monkeypatch.setattr(decoder, "call_with_cache", spy)
    of = decoding_of("GPT2")
    traced = tf.function(of._run, autograph=False)  # anew, with the spy in it
    options = SamplingOptions.of(GenerationConfig(), 2)
    state = traced(tf.range(1, 23), tf.constant([2, 20]), tf.constant([4, 3]), *options)
    assert state.counts.numpy().tolist() == [4, 3]
    assert steps == [1, 2, 3, 4, 19, 20, 21]


def test_a_row_at_the_end_of_the_context_ends_and_others_go_on():
    of = decoding_of("GPT2")
    long = [3 + i for i in range(CONTEXT - 2)]
    state = of.state([long, [5], long[:-3]], [100, 8, 100])
    assert state.counts.numpy().tolist() == [2, 8, 5]
    assert state.ends.numpy().tolist() == [LENGTH] * 3
    assert of.tokens([[5]], [8]) == [of.tokens([long, [5], long[:-3]], [100, 8, 100])[1]]


def test_rows_that_are_to_do_nothing_and_no_rows_at_all():
    of = decoding_of("GPT2")
    state = of.state([[1, 2], [3], [4, 5, 6]], [0, 3, 0])
    assert state.counts.numpy().tolist() == [0, 3, 0]
    assert of.tokens([[1, 2], [3], [4, 5, 6]], [0, 3, 0])[1] == of.tokens([[3]], [3])[0]
    assert of.state([[1], [2]], [0, 0]).text.numpy().tolist() == [b"", b""]
    assert of.state([], []).text.shape == [0]


@pytest.mark.parametrize("name", quick(DECODED))
def test_losses_are_those_of_the_forward_pass(name):
    of = decoding_of(name)
    ids = (PROMPTS[3] + PROMPTS[0] + [1])[: len(PROMPTS[3]) + NEW]
    labels = [*ids[1:], 4]

    def full():
        return tf.nn.log_softmax(of.logits(ids)).numpy()

    losses = tf.function(of.decoder.token_losses, autograph=False)(
        tf.constant([ids]), tf.constant([labels])
    )
    expected = -full()[np.arange(len(ids)), labels]
    assert_within(losses[0], expected, weight_rounding(of.model, full)[:, 0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_bfloat16_is_near_float32():
    of = decoding_of("GPT2")
    cast = of.decoder.with_dtype("bfloat16")
    assert cast.dtype == "bfloat16" and {w.dtype for w in cast.weights} == {tf.bfloat16}
    ids = tf.constant([PROMPTS[3]])
    exact, near = (tf.function(d.token_losses, autograph=False) for d in (of.decoder, cast))
    bound = weight_rounding(of.model, lambda: exact(ids, ids), "bfloat16")
    assert_within(near(ids, ids), exact(ids, ids), bound)
    assert np.abs(near(ids, ids) - exact(ids, ids)).max() > 0 and np.ptp(exact(ids, ids)) > 3


@pytest.mark.parametrize("name", [pytest.param("GPTNeoX", marks=SLOW), "PaliGemma", "RWKV7"])
def test_what_cannot_be_decoded_is_refused_by_name(name):
    with pytest.raises(ValueError, match=REFUSED[name]) as refusal:
        KerasHubDecoder(causal_lm(name), CONTEXT)
    assert f"{name}CausalLM" in str(refusal.value)


def test_a_cached_call_that_needs_a_picture_is_refused():
    model = causal_lm("GPT2")

    class Reader(keras_hub.models.GPT2CausalLM):
        def call_with_cache(self, token_ids, cache, cache_update_index, img_embeddings):
            raise AssertionError

    keras.utils.set_random_seed(0)
    reader = Reader(backbone=model.backbone, preprocessor=None)
    with pytest.raises(ValueError, match=r"Reader requires .*img_embeddings"):
        KerasHubDecoder(reader, CONTEXT)
