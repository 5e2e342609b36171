"""Multi-head attention compared with the equation in NumPy float64; its masks and cache."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.layers.numpy_reference import attention_row
from tests.rounding import assert_rounded, assert_within, rounding
from tfllm.layers import MultiHeadAttention, dot_product_attention, rotary_tables

B, T, E = 2, 7, 16
ADDITIONS = 3 * E + 2 * T
"""on the way through the layer: projection, scores, softmax, mix and output projection"""
LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 50,
}


def seen(time, causal, window=None):
    """Bool [T, T]: what each token sees, pair by pair."""
    pairs = [
        (not causal or key <= query) and (window is None or query - key < window)
        for query in range(time)
        for key in range(time)
    ]
    return np.array(pairs).reshape(time, time)


def randomised(layer, rng):
    """Weights (and biases, which start at 0) that are all different."""
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.3)
    return layer


def reference(layer, x, allowed, context=None):
    """What the layer gives, by `attention_row`, for a mask allowed bool [B, T, S]."""
    weights = {w.path.split("/", 1)[1]: np.asarray(w, np.float64) for w in layer.weights}
    dim = layer.config.head_dim or x.shape[-1] // layer.num_heads
    sizes = np.array([layer.num_heads, layer.num_kv_heads, layer.num_kv_heads]) * dim
    rows = []
    for b in range(len(x)):
        if context is None:
            projected = x[b] @ weights["query_key_value/kernel"].T
            projected = projected + weights.get("query_key_value/bias", 0)
            query, key, value = np.split(projected, np.cumsum(sizes)[:2], axis=-1)
        else:
            query = x[b] @ weights["query/kernel"].T + weights.get("query/bias", 0)
            key_value = context[b] @ weights["key_value/kernel"].T
            key, value = np.split(key_value + weights.get("key_value/bias", 0), 2, axis=-1)
        rows.append(
            attention_row(
                query,
                key,
                value,
                allowed=allowed[b],
                num_heads=layer.num_heads,
                num_kv_heads=layer.num_kv_heads,
                rope_theta=layer.config.rope_theta,
                rope_scaling=layer.config.rope_scaling,
                query_scale=weights.get("query_key_norm/query_scale"),
                key_scale=weights.get("query_key_norm/key_scale"),
                output=weights["output/kernel"],
                output_bias=weights.get("output/bias", 0),
            )
        )
    return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"use_bias": True},
        {"num_kv_heads": 2, "causal": True},
        {"num_kv_heads": 1, "rope_theta": 10000.0, "causal": True},
        {"num_kv_heads": 2, "head_dim": 6, "rope_theta": 500.0, "use_bias": True},
        {"num_kv_heads": 2, "causal": True, "sliding_window": 3, "use_bias": True},
        {"causal": True, "sliding_window": 1, "use_bias": True, "output_bias": False},
        {"causal": True, "output_bias": True, "rope_theta": 500.0, "rope_scaling": LINEAR},
        {"num_kv_heads": 2, "rope_theta": 500.0, "rope_scaling": LLAMA3, "query_key_norm": True},
    ],
    ids=str,
)
def test_it_is_the_equation_in_float64(options, dtype, rng):
    layer = MultiHeadAttention(4, dtype=dtype, **options)
    x = rng.normal(size=(B, T, E))
    layer.build(x.shape)
    randomised(layer, rng)
    if layer.query_key_norm is not None or layer.config.rope_theta is not None:
        dtype = "float32"  # as are the statistics and the angles
    allowed = np.broadcast_to(seen(T, layer.config.causal, layer.config.sliding_window), (B, T, T))
    y, weights = layer(x, return_weights=True)
    expected, expected_weights = reference(layer, x, allowed)
    assert_rounded(y, expected, ADDITIONS, dtype)
    assert_rounded(weights, expected_weights, ADDITIONS, dtype)


def test_without_rotary_positions_float64_is_exact(rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, dtype="float64")
    x = rng.normal(size=(B, T, E))
    layer.build(x.shape)
    randomised(layer, rng)
    expected, _ = reference(layer, x, np.ones((B, T, T), bool))
    assert_rounded(layer(x), expected, ADDITIONS, "float64")


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_cross_attention_reads_the_context(num_kv_heads, rng):
    layer = MultiHeadAttention(4, num_kv_heads=num_kv_heads, cross_attention=True, use_bias=True)
    x, context = rng.normal(size=(B, T, E)), rng.normal(size=(B, 5, 10))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    layer(x, context=context)
    randomised(layer, rng)
    y, weights = layer(x, context=context, padding_mask=mask, return_weights=True)
    allowed = np.broadcast_to(mask[:, None], (B, T, 5))
    expected, expected_weights = reference(layer, x, allowed, context)
    assert_rounded(y, expected, ADDITIONS)
    assert_rounded(weights, expected_weights, ADDITIONS)
    assert np.all(np.asarray(weights)[1, :, :, 2:] == 0)


def test_cross_attention_without_a_context_is_refused(rng):
    x = rng.normal(size=(B, T, E))
    with pytest.raises(ValueError, match="cross_attention needs a context"):
        MultiHeadAttention(4, cross_attention=True)(x)
    with pytest.raises(ValueError, match="cross_attention needs a context"):
        MultiHeadAttention(4)(x, context=x)


def test_padding_is_invisible(rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, rope_theta=1e4)
    x = rng.normal(size=(B, T, E)).astype("float32")
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3], bool)
    y = np.asarray(layer(x, padding_mask=mask))
    expected, _ = reference(layer, x, np.broadcast_to(mask[:, None], (B, T, T)))
    assert_rounded(y, expected, ADDITIONS)
    assert_rounded(y[1, :4], np.asarray(layer(x[1:, :4]))[0], ADDITIONS)
    other = x.copy()
    other[1, 4:] = 100.0
    np.testing.assert_array_equal(y[1, :4], np.asarray(layer(other, padding_mask=mask))[1, :4])


def test_a_row_that_is_all_padding_is_finite(rng):
    for dtype in ("float32", "mixed_bfloat16", "mixed_float16"):
        layer = MultiHeadAttention(4, causal=True, dtype=dtype)
        y = layer(rng.normal(size=(B, T, E)), padding_mask=np.zeros((B, T), bool))
        assert np.all(np.isfinite(tf.cast(y, tf.float32)))


def test_segments_give_what_each_gives_alone(rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, rope_theta=1e4, causal=True)
    x = rng.normal(size=(1, T, E)).astype("float32")
    packed = np.asarray(layer(x, segment_ids=np.array([[1, 1, 1, 2, 2, 2, 2]])))
    alone = [np.asarray(layer(x[:, :3])), np.asarray(layer(x[:, 3:]))]
    assert_rounded(packed, np.concatenate(alone, 1), ADDITIONS)


def test_causal_output_does_not_depend_on_later_tokens(rng):
    layer = MultiHeadAttention(4, causal=True)
    x = rng.normal(size=(1, T, E)).astype("float32")
    before = np.asarray(layer(x))
    x[:, 4] += 1
    after = np.asarray(layer(x))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2)).min() > 1e-4


def test_a_window_counts_tokens_and_not_padding(rng):
    """Padding before, between and behind the tokens; positions are given as they count."""
    layer = MultiHeadAttention(4, num_kv_heads=2, causal=True, sliding_window=3, rope_theta=1e4)
    tokens = rng.normal(size=(1, 6, E)).astype("float32")
    alone = np.asarray(layer(tokens))
    mask = np.array([[0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0]], bool)
    x = np.full((1, 12, E), 50.0, "float32")
    x[mask] = tokens[0]
    positions = tf.constant(np.maximum(np.cumsum(mask, 1) - 1, 0))
    rotary = rotary_tables(positions, E // 4, 1e4, tf.float32)
    padded = np.asarray(layer(x, padding_mask=mask, rotary=rotary))
    assert_rounded(padded[mask], alone[0], ADDITIONS)
    cache, given = tf.zeros([2, 1, 2, 12, E // 4]), []
    for index in range(12):
        step = tuple(table[:, :, index : index + 1] for table in rotary)
        y, cache = layer(
            x[:, index : index + 1],
            padding_mask=mask,
            rotary=step,
            cache=cache,
            cache_index=tf.constant(index),
        )
        given.append(y)
    assert_rounded(np.concatenate(given, 1)[mask], alone[0], ADDITIONS)


@pytest.mark.parametrize("chunks", [[7], [3, 4], [1] * 7, [4, 1, 2]], ids=str)
@pytest.mark.parametrize("first_index", ["python 0", "tensor 0"])
@pytest.mark.parametrize("options", [{}, {"sliding_window": 3, "query_key_norm": True}], ids=str)
def test_a_cache_gives_what_the_full_pass_gives(options, chunks, first_index, rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, rope_theta=1e4, causal=True, **options)
    x = rng.normal(size=(B, T, E)).astype("float32")
    full = np.asarray(layer(x))
    cache = tf.zeros([2, B, 2, T + 3, E // 4]) + 7.0  # what is not written yet must not be read
    done, pieces = 0, []
    for size in chunks:
        index = 0 if done == 0 and first_index == "python 0" else tf.constant(done)
        y, cache = layer(x[:, done : done + size], cache=cache, cache_index=index)
        pieces.append(y)
        done += size
    assert_rounded(np.concatenate(pieces, 1), full, ADDITIONS)
    assert np.all(np.asarray(cache)[:, :, :, T:] == 7.0)


def test_a_cache_in_a_graph_with_unknown_sizes(rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, rope_theta=1e4, causal=True)
    x = rng.normal(size=(B, T, E)).astype("float32")
    full = np.asarray(layer(x))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, E]),
            tf.TensorSpec([2, None, 2, None, E // 4]),
            tf.TensorSpec([], tf.int32),
        ],
        autograph=False,
    )
    def step(x, cache, index):
        return layer(x, cache=cache, cache_index=index)

    y1, cache = step(x[:, :4], tf.zeros([2, B, 2, T, E // 4]), 0)
    y2, _ = step(x[:, 4:], cache, 4)
    assert_rounded(np.concatenate([y1, y2], 1), full, ADDITIONS)


@pytest.mark.alone
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_that_rows_share_costs_no_more_than_one_for_each(dtype, rng):
    query, key, value = tf.cast(rng.normal(size=(3, 4, 2, 128, 64)), dtype)
    own = tf.cast(rng.normal(size=(4, 1, 128, 128)), dtype)
    run = tf.function(lambda bias: dot_product_attention(query, key, value, bias)[0])
    seconds = {}
    for name, bias in (("shared", own[:1]), ("own", own)):
        run(bias)
        runs = []
        for _ in range(5):
            start = time.process_time()
            run(bias)[0].numpy()
            runs.append(time.process_time() - start)
        seconds[name] = min(runs)
    assert seconds["shared"] < 10 * seconds["own"], seconds
    expected = run(tf.repeat(own[:1], 4, axis=0))
    # Sums of products are float32 in both; what rounds are the scores, the weights and the result.
    assert_rounded(run(own[:1]), expected, 3 if dtype == "bfloat16" else 128, dtype)


def test_a_cache_refuses_segments(rng):
    layer = MultiHeadAttention(4, causal=True)
    x = rng.normal(size=(B, 2, E)).astype("float32")
    with pytest.raises(ValueError, match="segment_ids are not known of the tokens in a cache"):
        layer(
            x,
            cache=tf.zeros([2, B, 4, T, E // 4]),
            cache_index=tf.constant(2),
            segment_ids=np.ones((B, 2), "int32"),
        )


def test_unknown_sizes_outside_autograph(rng):
    layer = MultiHeadAttention(4, num_kv_heads=2, causal=True)
    x = rng.normal(size=(B, T, E)).astype("float32")
    expected = np.asarray(layer(x))
    graph = tf.function(
        lambda x: layer(x), input_signature=[tf.TensorSpec([None, None, E])], autograph=False
    )
    assert_rounded(graph(x), expected, ADDITIONS)


def test_dropout_drops_weights_while_training_only(rng):
    layer = MultiHeadAttention(4, dropout=0.5, seed=1)
    x = rng.normal(size=(B, 40, E)).astype("float32")
    _, kept = layer(x, return_weights=True)
    assert np.all(np.asarray(kept) > 0)
    _, dropped = layer(x, training=True, return_weights=True)
    dropped = np.asarray(dropped)
    assert 0.45 < (dropped == 0).mean() < 0.55
    expected = np.where(dropped > 0, 2 * np.asarray(kept), 0)
    assert_within(dropped, expected, rounding(3 * E + 2 * 40) * expected)
    _, again = layer(x, training=True, return_weights=True)
    assert np.any((np.asarray(again) == 0) != (dropped == 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads.*num_kv_heads=3"),
        ({"num_heads": 0}, "at least 1.*num_heads=0"),
        ({"num_heads": 4, "causal": True, "sliding_window": 0}, "at least 1.*sliding_window=0"),
        ({"num_heads": 4, "sliding_window": 3}, "needs causal=True; .*causal=False"),
        (
            {"num_heads": 4, "query_key_norm": True, "cross_attention": True},
            "query_key_norm is for",
        ),
        ({"num_heads": 4, "dropout": 1.0}, r"dropout must lie in \[0, 1\); received 1.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**options)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"divisible by num_heads.*received width 10"):
        MultiHeadAttention(4).build((None, None, 10))
    with pytest.raises(ValueError, match="head_dim must be even"):
        MultiHeadAttention(2, rope_theta=1e4)(np.zeros((1, 2, 6), "float32"))


def test_return_weights_has_both_shapes_in_a_functional_model():
    x = keras.Input((T, E))
    y, weights = MultiHeadAttention(4)(x, return_weights=True)
    assert y.shape == (None, T, E)
    assert len(weights.shape) == 4
