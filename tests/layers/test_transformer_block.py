"""A block compared with the same block in NumPy float64, sublayer by sublayer."""

import numpy as np
import pytest
import tensorflow as tf

from tests.layers.numpy_reference import activation, attention_row, layer_norm, rms_norm
from tests.rounding import assert_rounded
from tfllm.layers import TransformerBlock

B, T, S, E = 2, 5, 4, 16
ADDITIONS = 2 * (3 * E + 2 * T) + 2 * E + 24
"""on the longest way through: two attentions, a feed-forward part of hidden size 24, two norms"""


def numpy_block(block, settings, x, allowed, context=None, context_allowed=None):
    w = {v.path.split("/", 1)[1]: np.asarray(v, np.float64) for v in block.weights}

    def norm(name, x):
        scale = w[f"{name}/scale"]
        if settings["norm"] == "rms":
            return rms_norm(x, scale, 1e-5)
        return layer_norm(x, scale, w[f"{name}/bias"], 1e-5)

    def project(name, x):
        return x @ w[f"{name}/kernel"].T + w.get(f"{name}/bias", 0)

    def attend(name, h, other, allowed, rope_theta):
        heads, kv = settings["num_heads"], settings.get("num_kv_heads", settings["num_heads"])
        if other is None:
            dim = E // heads
            query, key, value = np.split(
                project(f"{name}/query_key_value", h), np.cumsum([heads * dim, kv * dim]), -1
            )
        else:
            query = project(f"{name}/query", h)
            key, value = np.split(project(f"{name}/key_value", other), 2, -1)
        return attention_row(
            query,
            key,
            value,
            allowed=allowed,
            num_heads=heads,
            num_kv_heads=kv,
            rope_theta=rope_theta,
            rope_scaling=settings.get("rope_scaling"),
            query_scale=w.get(f"{name}/query_key_norm/query_scale"),
            key_scale=w.get(f"{name}/query_key_norm/key_scale"),
            output=w[f"{name}/output/kernel"],
            output_bias=w.get(f"{name}/output/bias", 0),
        )[0]

    def feed_forward(h):
        if not settings["gated"]:
            return project(
                "feed_forward/down",
                activation(settings["activation"], project("feed_forward/up", h)),
            )
        gate, up = np.split(project("feed_forward/gate_up", h), 2, -1)
        return project("feed_forward/down", activation(settings["activation"], gate) * up)

    def residual(name, x, sublayer):
        if settings["norm_first"]:
            return x + sublayer(norm(name, x))
        return norm(name, x + sublayer(x))

    rows = []
    for b in range(len(x)):
        row = residual(
            "attention_norm",
            x[b],
            lambda h, b=b: attend("attention", h, None, allowed[b], settings.get("rope_theta")),
        )
        if context is not None:
            row = residual(
                "cross_attention_norm",
                row,
                lambda h, b=b: attend("cross_attention", h, context[b], context_allowed[b], None),
            )
        rows.append(residual("feed_forward_norm", row, feed_forward))
    return np.stack(rows)


SETTINGS = {
    "llama": dict(
        norm="rms", norm_first=True, activation="silu", gated=True, num_kv_heads=2, rope_theta=1e4
    ),
    "gpt2": dict(norm="layer", norm_first=True, activation="gelu_tanh", gated=False, use_bias=True),
    "2017": dict(norm="layer", norm_first=False, activation="relu", gated=False, use_bias=True),
    "qwen": dict(
        norm="rms",
        norm_first=True,
        activation="silu",
        gated=True,
        num_kv_heads=2,
        rope_theta=1e4,
        rope_scaling={"rope_type": "linear", "factor": 2.0},
        query_key_norm=True,
        query_key_value_bias=True,
    ),
    "biases but of the attention's output": dict(
        norm="rms",
        norm_first=True,
        activation="silu",
        gated=True,
        use_bias=True,
        attention_output_bias=False,
    ),
    "post-norm rms": dict(norm="rms", norm_first=False, activation="gelu", gated=True),
}


@pytest.mark.parametrize("cross_attention", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_its_equations(name, cross_attention, rng):
    settings = {"num_heads": 4, **SETTINGS[name]}
    block = TransformerBlock(
        hidden_dim=24, causal=True, cross_attention=cross_attention, **settings
    )
    x = rng.normal(size=(B, T, E))
    allowed = np.broadcast_to(np.tril(np.ones((T, T), bool)), (B, T, T))
    given, reference = {}, {}
    if cross_attention:
        mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)
        context = rng.normal(size=(B, S, 10))
        given = {"context": context, "context_padding_mask": mask}
        reference = {
            "context": context,
            "context_allowed": np.broadcast_to(mask[:, None], (B, T, S)),
        }
    block(x, **given)
    for weight in block.weights:
        weight.assign(rng.normal(size=weight.shape) * 0.4)
    expected = numpy_block(block, settings, x, allowed, **reference)
    assert_rounded(block(x, **given), expected, ADDITIONS)


def test_the_residual_stream_is_float32_under_bfloat16(rng):
    x = rng.normal(size=(B, T, E)).astype("float32") * 1000 + 0.5
    block = TransformerBlock(4, dtype="mixed_bfloat16")
    y = block(x)
    assert y.dtype == tf.float32
    # A bfloat16 residual would round 1000 to a multiple of 4; what a new block adds is less.
    assert np.abs(np.asarray(y) - x).max() < 4
    assert np.any(np.asarray(y) % 1 != 0)


@pytest.mark.parametrize("chunks", [[5], [2, 3], [1] * 5], ids=str)
def test_a_cache_gives_what_the_full_pass_gives(chunks, rng):
    block = TransformerBlock(4, num_kv_heads=2, causal=True, rope_theta=1e4)
    x = rng.normal(size=(B, T, E)).astype("float32")
    full = np.asarray(block(x))
    cache, done, pieces = tf.zeros([2, B, 2, 8, 4]), 0, []
    for size in chunks:
        index = tf.constant(done) if done else 0
        y, cache = block(x[:, done : done + size], cache=cache, cache_index=index)
        pieces.append(y)
        done += size
    assert_rounded(np.concatenate(pieces, 1), full, ADDITIONS)


def test_packed_segments_give_what_each_gives_alone(rng):
    block = TransformerBlock(4, causal=True, rope_theta=1e4)
    x = rng.normal(size=(1, T, E)).astype("float32")
    packed = np.asarray(block(x, segment_ids=np.array([[1, 1, 2, 2, 2]])))
    alone = np.concatenate([block(x[:, :2]), block(x[:, 2:])], 1)
    assert_rounded(packed, alone, ADDITIONS)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("cross_attention", [False, True])
@pytest.mark.parametrize("in_graph", [False, True])
def test_rematerialized_loss_and_gradients_are_the_same(dropout, cross_attention, in_graph, rng):
    x = tf.constant(rng.normal(size=(B, T, E)), tf.float32)
    given = {"context": tf.constant(rng.normal(size=(B, S, E)), tf.float32)}
    results = []
    for rematerialize in (False, True):
        block = TransformerBlock(
            4,
            dropout=dropout,
            cross_attention=cross_attention,
            rematerialize=rematerialize,
            kernel_initializer="ones",
            seed=5,
        )
        block.build(x.shape, x.shape)
        for i, weight in enumerate(block.trainable_weights):
            weight.assign(np.random.default_rng(i).normal(size=weight.shape) * 0.3)

        def run(block=block):
            extra = given if cross_attention else {}
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.sin(block(x, training=True, **extra)))
            return loss, tape.gradient(loss, [x, *[w.value for w in block.trainable_weights]])

        results.append((tf.function(run) if in_graph else run)())
    (loss, gradients), (other_loss, other_gradients) = results
    assert_rounded(loss, other_loss, ADDITIONS)
    for a, b in zip(gradients, other_gradients, strict=True):
        assert_rounded(a, b, ADDITIONS)


def test_dropout_masks_differ_between_sublayers_and_calls(rng):
    block = TransformerBlock(2, hidden_dim=8, dropout=0.5, seed=1)
    x = np.zeros((1, 200, 8), "float32")
    block.build(x.shape)
    for weight in block.weights:
        weight.assign(tf.ones_like(weight))
    masks = []
    for _ in range(3):
        block_input = x + 1.0
        y = np.asarray(block(block_input, training=True))
        masks.append(y != 1)
    assert any(np.any(masks[0] != m) for m in masks[1:])


def test_a_context_without_cross_attention_is_refused(rng):
    x = rng.normal(size=(B, T, E)).astype("float32")
    with pytest.raises(ValueError, match="cross_attention needs a context"):
        TransformerBlock(4)(x, context=x)
    with pytest.raises(ValueError, match="cross_attention needs a context"):
        TransformerBlock(4, cross_attention=True)(x)


def test_an_impossible_inner_width_is_refused():
    with pytest.raises(ValueError, match="hidden_dim must be at least 1; received 0"):
        TransformerBlock(4, hidden_dim=0).build((None, None, 16))


def test_no_two_weights_of_one_shape_are_alike():
    block = TransformerBlock(4, hidden_dim=16, gated=False, cross_attention=True)
    block.build((None, None, 16), (None, None, 16))
    matrices = [np.asarray(w) for w in block.weights if len(w.shape) == 2]
    for i, a in enumerate(matrices):
        for b in matrices[:i]:
            assert a.shape != b.shape or not np.array_equal(a, b)
