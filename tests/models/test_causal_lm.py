"""Masks, positions, cache, initialization and dropout of the whole model."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import UNIT_ROUNDOFF, assert_rounded, assert_within, weight_rounding
from tfllm.config import ModelConfig
from tfllm.layers import masks
from tfllm.layers.masks import bias_of
from tfllm.models.causal_lm import CausalLM

FAMILIES = {
    "llama": {},
    "gpt2": dict(
        positions="learned",
        norm="layer",
        gated=False,
        activation="gelu_tanh",
        use_bias=True,
        num_kv_heads=4,
    ),
    "2017": dict(
        positions="sinusoidal",
        norm="layer",
        norm_first=False,
        gated=False,
        activation="relu",
        num_kv_heads=4,
        tied_embeddings=False,
    ),
    "no positions": dict(positions="none", tied_embeddings=False),
    "windows": dict(
        sliding_window=3,
        window_layers=(1,),
        rope_layers=(0,),
        rope_scaling={"rope_type": "linear", "factor": 2.0},
        query_key_norm=True,
        query_key_value_bias=True,
    ),
}


ADDITIONS = 2 * (5 * 16 + 4 + 9 + 40) + 2 * 16
"""on the longest way through the tiny model, 9 tokens, to its logits"""


@pytest.fixture(params=FAMILIES)
def config(request, tiny_config) -> ModelConfig:
    return dataclasses.replace(tiny_config, **FAMILIES[request.param])


def randomised(model, rng):
    """Larger weights than the initial ones, so that every path shows in the logits."""
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3 + (len(weight.shape) == 1))
    return model


def ids(rng, rows=2, time=9, vocab_size=61):
    return rng.integers(0, vocab_size, size=(rows, time)).astype("int32")


def test_a_later_token_changes_no_earlier_logit(config, rng):
    model = randomised(CausalLM(config), rng)
    x = ids(rng)
    before = np.asarray(model(x))
    assert before.shape == (2, 9, 61) and before.dtype == np.float32
    x[:, 5] = (x[:, 5] + 1) % 61
    after = np.asarray(model(x))
    assert_rounded(after[:, :5], before[:, :5], ADDITIONS)
    assert np.abs(after[:, 5:] - before[:, 5:]).max(axis=(0, 2)).min() > 1e-4


def test_packed_documents_give_what_each_gives_alone(config, rng):
    model = randomised(CausalLM(config), rng)
    x = ids(rng, rows=1)
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3]], "int32")
    packed = np.asarray(model({"token_ids": x, "segment_ids": segments}))
    alone = np.concatenate([model(x[:, a:b]) for a, b in ((0, 3), (3, 7), (7, 9))], 1)
    assert_rounded(packed, alone, ADDITIONS)
    if config.positions != "none":
        assert np.abs(np.asarray(model(x))[:, 3:] - alone[:, 3:]).max() > 1e-2


def test_right_padding_is_invisible(config, rng):
    model = randomised(CausalLM(config), rng)
    x = ids(rng)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4], bool)
    padded = np.asarray(model({"token_ids": x, "padding_mask": mask}))
    assert_rounded(padded[1, :5], np.asarray(model(x[1:, :5]))[0], ADDITIONS)
    assert_rounded(padded[0], np.asarray(model(x[:1]))[0], ADDITIONS)


@pytest.mark.parametrize("chunks", [[9], [5, 4], [1] * 9, [4, 1, 3, 1]], ids=str)
def test_cached_in_any_chunking_equals_the_full_pass(chunks, config, rng):
    model = randomised(CausalLM(config), rng)
    x = ids(rng)
    full = np.asarray(model(x))
    cache = model.empty_cache(2, 12)
    done, pieces = 0, []
    for size in chunks:
        hidden, cache = model.hidden_states(x[:, done : done + size], cache=cache)
        pieces.append(model.logits(hidden))
        done += size
        cache = cache._replace(next_index=tf.constant(done))
    assert_rounded(np.concatenate(pieces, 1), full, ADDITIONS)


def test_the_graph_with_unknown_sizes_is_the_same(config, rng):
    model = randomised(CausalLM(config), rng)
    x = ids(rng)
    graph = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, None], tf.int32)])
    assert graph.get_concrete_function().output_shapes.as_list() == [None, None, 61]
    assert_rounded(graph(x), model(x), ADDITIONS)


def test_low_precision_is_close_and_logits_are_float32(config, rng):
    exact = randomised(CausalLM(config), rng)
    for dtype in ("mixed_bfloat16", "mixed_float16"):
        model = CausalLM(config, dtype=dtype)
        for mine, theirs in zip(model.weights, exact.weights, strict=True):
            mine.assign(theirs)
        x = ids(rng)
        logits = model(x)
        assert logits.dtype == tf.float32
        bound = weight_rounding(exact, lambda x=x: exact(x), dtype.removeprefix("mixed_"))
        assert_within(logits, exact(x), bound)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_sequence_too_long_is_refused(known, positions, tiny_config):
    model = CausalLM(dataclasses.replace(tiny_config, positions=positions))
    x = np.zeros((1, 33), "int32")
    if known:
        with pytest.raises(ValueError, match=r"max_sequence_length=32 tokens; received 33\. Give"):
            model(x)
    else:
        graph = tf.function(
            lambda x: model(x), input_signature=[tf.TensorSpec([None, None], tf.int32)]
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="max_sequence_length=32"):
            graph(x)


def test_tied_and_untied(tiny_config, rng):
    tied = CausalLM(tiny_config)
    untied = CausalLM(dataclasses.replace(tiny_config, tied_embeddings=False))
    assert untied.count_params() - tied.count_params() == 61 * 16
    x = ids(rng)
    before = np.asarray(untied(x))
    hidden = np.asarray(untied.hidden_states(x)[0])
    assert_rounded(before, hidden @ np.asarray(untied.output_kernel).T, 16)
    hidden = np.asarray(tied.hidden_states(x)[0])
    embedding = np.asarray(tied.token_embedding.embeddings)
    assert_rounded(tied(x), hidden @ embedding.T, 16)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(config):
    first, again, other = (
        [np.asarray(w) for w in CausalLM(config, seed=seed).weights] for seed in (7, 7, 8)
    )
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.ndim == 1 or np.any(a != c)


def test_no_two_matrices_of_one_shape_are_alike(config):
    matrices = [np.asarray(w) for w in CausalLM(config).weights if len(w.shape) == 2]
    for a, b in itertools.combinations(matrices, 2):
        assert a.shape != b.shape or abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.5


def test_initial_deviations_are_scaled_for_depth():
    config = ModelConfig(
        vocab_size=512, embedding_dim=128, num_layers=8, num_heads=4, initializer_range=0.03
    )
    for weight in CausalLM(config).weights:
        if len(weight.shape) == 1:
            assert np.all(np.asarray(weight) == 1)
            continue
        expected = 0.03
        if weight.path.endswith(("attention/output/kernel", "down/kernel")):
            expected = 0.03 / np.sqrt(2 * 8)
        # The deviation of n normal numbers is itself off by a share of 1 / sqrt(2 n), their mean by
        # 1 / sqrt(n) of it; of 50 matrices none should be off by 3.5 times that.
        size = np.size(weight)
        assert np.std(weight) == pytest.approx(expected, rel=3.5 / np.sqrt(2 * size)), weight.path
        assert abs(np.mean(weight)) < 3.5 / np.sqrt(size) * expected


def test_the_first_loss_is_that_of_guessing(tiny_model, rng):
    x = ids(rng, rows=32)
    logits = tiny_model(x[:, :-1])
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(x[:, 1:], logits)
    # Normed states times an embedding of small numbers: logits deviate by 0.08, and the mean of
    # those of 61 tokens by a root of 61 less. Four times that.
    deviation = tiny_model.config.initializer_range * np.sqrt(tiny_model.config.embedding_dim)
    assert float(tf.reduce_mean(loss)) == pytest.approx(
        np.log(61), abs=4 * deviation / np.sqrt(61), rel=0
    )


def test_variable_paths_are_unique(config):
    paths = [v.path for v in CausalLM(dataclasses.replace(config, dropout=0.1)).weights]
    assert len(set(paths)) == len(paths)


def test_attention_weights_are_causal_distributions(config, rng):
    model = randomised(CausalLM(config), rng)
    weights = model.attention_weights(ids(rng))
    assert len(weights) == 2
    for w in weights:
        assert w.shape == (2, 4, 9, 9)
        assert_rounded(np.sum(w, -1), 1, 9)
        assert np.all(np.triu(np.asarray(w), 1) == 0)


def test_dropout_acts_in_training_only_and_repeats_with_its_seed(tiny_config, rng):
    config = dataclasses.replace(tiny_config, dropout=0.2)
    x = ids(rng)

    def calls(seed):
        model = CausalLM(config, seed=seed)
        for mine, theirs in zip(model.weights, CausalLM(config).weights, strict=True):
            mine.assign(theirs)
        return [np.asarray(model(x, training=True)) for _ in range(2)], np.asarray(model(x))

    (first, second), without = calls(1)
    (again, _), _ = calls(1)
    (other, _), _ = calls(2)
    np.testing.assert_array_equal(first, again)
    assert_rounded(without, CausalLM(tiny_config)(x), ADDITIONS)
    for changed in (second, other, without):
        assert np.abs(first - changed).max() > 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_rematerialized_training_is_the_same(dropout, config, rng):
    config = dataclasses.replace(config, dropout=dropout)
    x, y = ids(rng, 4), ids(rng, 4)
    results = []
    for rematerialize in (False, True):
        model = CausalLM(config, rematerialize=rematerialize)
        model.gradient_accumulation = 2
        model.compile(keras.optimizers.SGD(0.5))
        losses = [model.train_on_batch(x, y, return_dict=True)["loss"] for _ in range(3)]
        results.append((losses, [np.asarray(w) for w in model.weights]))
    (losses, weights), (other_losses, other_weights) = results
    assert_rounded(losses, other_losses, ADDITIONS)
    for a, b in zip(weights, other_weights, strict=True):
        assert_rounded(a, b, ADDITIONS)


def test_a_copy_in_another_precision_has_the_same_weights(tiny_config, rng):
    model = CausalLM(tiny_config, seed=5)
    model.blocks[0].trainable = False
    copy = model.with_dtype("bfloat16")
    assert all(w.dtype == "bfloat16" for w in copy.weights if len(w.shape) == 2)
    for mine, theirs in zip(copy.weights, model.weights, strict=True):
        assert_within(mine, theirs, UNIT_ROUNDOFF["bfloat16"] * np.abs(theirs))
    x = ids(rng)
    assert_within(copy(x), model(x), weight_rounding(model, lambda: model(x), "bfloat16"))


@pytest.mark.parametrize(
    ("options", "num_masks"),
    [
        ({}, 1),
        ({"sliding_window": 3, "window_layers": (1, 3)}, 2),
        ({"sliding_window": 3}, 1),
        ({"sliding_window": 32}, 1),  # the whole context: no window
    ],
)
def test_each_mask_is_made_once_for_all_blocks(options, num_masks, tiny_config, rng, monkeypatch):
    made = []

    def spy(allowed, dtype):
        made.append(allowed)
        return bias_of(allowed, dtype)

    monkeypatch.setattr(masks, "bias_of", spy)
    model = CausalLM(dataclasses.replace(tiny_config, num_layers=4, **options))
    model(ids(rng))
    assert len(made) == num_masks
    _, cache = model.hidden_states(ids(rng), cache=model.empty_cache(2, 12))
    assert len(made) == 2 * num_masks
    model.hidden_states(ids(rng, time=1), cache=cache._replace(next_index=tf.constant(9)))
    assert len(made) == 3 * num_masks


def test_a_window_hides_what_lies_before_it(tiny_config, rng):
    config = dataclasses.replace(tiny_config, sliding_window=4, window_layers=(0,))
    weights = randomised(CausalLM(config), rng).attention_weights(ids(rng))
    distance = np.arange(9)[:, np.newaxis] - np.arange(9)
    assert np.all((np.asarray(weights[0]) > 0) == ((distance >= 0) & (distance < 4)))
    assert np.all((np.asarray(weights[1]) > 0) == (distance >= 0))


def test_a_mask_that_is_missing_is_named(tiny_config, rng):
    x, bias = ids(rng), tf.zeros([1, 1, 9, 9])
    both = CausalLM(dataclasses.replace(tiny_config, sliding_window=4, window_layers=(0,)))
    both.hidden_states(x, bias=bias, window_bias=bias)
    with pytest.raises(ValueError, match="needs both; received only bias"):
        both.hidden_states(x, bias=bias)
    with pytest.raises(ValueError, match="needs both; received only window_bias"):
        both.hidden_states(x, window_bias=bias)
    with pytest.raises(ValueError, match="received only window_bias"):
        CausalLM(tiny_config).hidden_states(x, window_bias=bias)


def test_it_takes_its_config_as_a_dictionary(tiny_config):
    model = CausalLM(dataclasses.asdict(tiny_config))
    assert model.config == tiny_config
    with pytest.raises(ValueError, match="did you mean 'num_heads'"):
        CausalLM({"vocab_size": 9, "num_head": 2})
