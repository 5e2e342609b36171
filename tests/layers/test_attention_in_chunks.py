"""Attention in chunks compared with the full softmax in float64, and models trained both ways."""

import functools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import additions_of, assert_rounded, assert_within, input_rounding, rounding
from tfllm.config import ModelConfig
from tfllm.layers import MultiHeadAttention, attention_in_chunks, dot_product_attention, masks
from tfllm.layers.dropout import dropout
from tfllm.layers.masks import AttentionMask
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig
from tfllm.models.heads.sequence_classifier import SequenceClassifier

B, N, T, D = 2, 4, 50, 6
ROWS = 16
"""of a chunk; T is not a multiple of it"""
SEGMENTS = np.repeat([[1, 2, 3], [1, 1, 2]], [20, 13, 17], axis=1)
TOKENS = np.arange(T) < np.array([[T], [37]])
GAPS = (np.arange(T) % 5 < 4)[np.newaxis] & np.array([[True], [True]])
MASKS = {
    "none": {"causal": False},
    "causal": {},
    "window": {"sliding_window": 9},
    "window of one": {"sliding_window": 1},
    "padding": {"causal": False, "padding_mask": TOKENS},
    "causal and padding": {"padding_mask": TOKENS},
    "segments": {"segment_ids": SEGMENTS},
    "segments both ways": {"causal": False, "segment_ids": SEGMENTS},
    "window, segments": {"sliding_window": 9, "segment_ids": SEGMENTS},
    "window, gaps": {"sliding_window": 9, "padding_mask": GAPS},
}
FLOAT16 = pytest.param("float16", marks=pytest.mark.half_precision)
DTYPES = ["float32", "float64", "bfloat16", FLOAT16]


def allowed(causal=True, sliding_window=None, padding_mask=None, segment_ids=None):
    """Bool [B, T, T], pair by pair."""
    result = np.zeros((B, T, T), bool)
    for b in range(B):
        tokens = np.ones(T, bool) if padding_mask is None else padding_mask[b]
        for query in range(T):
            for key in range(T):
                sees = tokens[key] and (not causal or key <= query)
                if segment_ids is not None:
                    sees &= segment_ids[b, key] == segment_ids[b, query]
                if sliding_window is not None:  # its own and the tokens before
                    sees &= tokens[key + 1 : query + 1].sum() < sliding_window
                result[b, query, key] = sees
    return result


def full(query, key, value, upstream, *bias, seen, kept=1.0):
    """The equation and its gradients in float64; `kept`: factors of dropout."""
    given = [tf.cast(x, tf.float64) for x in (query, key, value, *bias)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        query, key, value, *bias = given
        group = query.shape[1] // key.shape[1]
        scores = tf.einsum("bntd,bnsd->bnts", query, tf.repeat(key, group, axis=1))
        scores = scores + sum(bias)
        scores = tf.where(seen[:, np.newaxis], scores, tf.constant(-np.inf, tf.float64))
        weights = tf.nn.softmax(scores) * tf.cast(kept, tf.float64)
        output = tf.einsum("bnts,bnsd->bntd", weights, tf.repeat(value, group, axis=1))
    upstream = tf.cast(upstream, tf.float64)
    return output, *tape.gradient(output, given, output_gradients=upstream)


def chunks(query, key, value, upstream, *bias, mask, rows=ROWS, **options):
    mask = AttentionMask(
        query.shape[2], bias=bias[0] if bias else None, **{"dtype": query.dtype, **mask}
    )
    with tf.GradientTape() as tape:
        tape.watch([query, key, value, *bias])
        output = attention_in_chunks.attention_in_chunks(
            query, key, value, mask, rows=rows, **options
        )
    return output, *tape.gradient(output, [query, key, value, *bias], output_gradients=upstream)


def problem(rng, kv_heads=N, dtype="float32", time=T, keys=T):
    def normal(heads, length):
        return tf.cast(rng.normal(size=(B, heads, length, D)), dtype)

    return normal(N, time), normal(kv_heads, keys), normal(kv_heads, keys), normal(N, time)


def assert_close(mine, given, dtype="float32", **options):
    expected = functools.partial(full, **options)
    bounds = input_rounding(expected, *given, dtype=dtype)
    # Queries that see one key have gradients of 0: what rounds are the sums that cancel there.
    largest = max(bound.max() for bound in bounds[:4])
    names = ("output", "d query", "d key", "d value", "d bias")
    rounded = [tf.cast(x, tf.float64) for x in given]
    for name, value, theirs, bound in zip(names, mine, expected(*rounded), bounds, strict=False):
        assert value.dtype == dtype
        assert_within(value, theirs, max(bound.max(), largest), name)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", MASKS)
def test_values_and_gradients_are_those_of_the_full_softmax(mask, kv_heads, rng):
    given = problem(rng, kv_heads)
    seen = allowed(**MASKS[mask])
    assert_close(chunks(*given, mask=MASKS[mask]), given, seen=seen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", ["causal and padding", "window, segments", "padding"])
def test_dtypes(mask, dtype, rng):
    given = problem(rng, 2, dtype)
    assert_close(chunks(*given, mask=MASKS[mask]), given, dtype, seen=allowed(**MASKS[mask]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    "shape", [(1, N, T, T), (B, N, T, T), (1, 1, T, T), (B, 1, 1, T), (1, N, 1, T), (1, 1, 1, T)]
)
@pytest.mark.parametrize("mask", ["causal", "padding"])
def test_a_learned_bias_has_its_gradient_however_it_is_repeated(mask, shape, kv_heads, dtype, rng):
    given = (*problem(rng, kv_heads, dtype), tf.cast(rng.normal(size=shape), dtype))
    assert_close(chunks(*given, mask=MASKS[mask]), given, dtype, seen=allowed(**MASKS[mask]))


@pytest.mark.parametrize("rows", [1, 7, 25, 49, 50, 64])
def test_any_size_of_the_chunks_gives_the_same(rows, rng):
    given, mask = problem(rng, 2), MASKS["window"]
    assert_close(chunks(*given, mask=mask, rows=rows), given, seen=allowed(**mask))


@pytest.mark.parametrize("keys", [23, 70])
def test_a_context_of_another_length(keys, rng):
    given = problem(rng, 2, keys=keys)
    tokens = np.arange(keys) < np.array([[keys], [11]])
    mask = {"causal": False, "padding_mask": tokens}
    assert_close(chunks(*given, mask=mask), given, seen=np.repeat(tokens[:, np.newaxis], T, 1))


@pytest.mark.parametrize("window", [None, 12])
def test_queries_after_those_in_a_cache(window, rng):
    given = problem(rng, 2, time=21, keys=T)
    mask = {"cache_index": tf.constant(13), "cache_length": T, "sliding_window": window}
    seen = allowed(sliding_window=window)[:, 13:34]
    assert_close(chunks(*given, mask=mask), given, seen=seen)


@pytest.mark.parametrize("unknown", ["batch", "batch and keys"])
def test_sizes_that_a_graph_does_not_know(unknown, rng):
    given, mask = problem(rng, 2, keys=23), {"causal": False}

    def specification(x, of_keys):
        length = None if of_keys and unknown == "batch and keys" else x.shape[2]
        return tf.TensorSpec([None, x.shape[1], length, D])

    run = tf.function(
        lambda *given: chunks(*given, mask=mask),
        input_signature=[specification(x, i in (1, 2)) for i, x in enumerate(given)],
        autograph=False,
    )
    assert_close(run(*given), given, seen=np.ones((B, T, 23), bool))


def test_xla_gives_the_same(rng):
    given = (*problem(rng, 2), tf.cast(rng.normal(size=(1, N, T, T)), "float32"))
    run = tf.function(
        lambda *given: chunks(*given, mask=MASKS["segments"], rows=30), jit_compile=True
    )
    assert_close(run(*given), given, seen=allowed(**MASKS["segments"]))


def test_xla_drops_the_same_forwards_and_backwards(rng):
    """The output is linear in the value: its product with the gradients of both sides agrees."""
    given, seed = problem(rng, 2), tf.constant([3, 4])
    run = tf.function(
        lambda *given: chunks(*given, mask={}, rows=30, dropout_rate=0.4, seed=seed),
        jit_compile=True,
    )
    output, _, _, d_value = run(*given)
    one = tf.reduce_sum(tf.cast(output * given[3], tf.float64))
    other = tf.reduce_sum(tf.cast(d_value * given[2], tf.float64))
    largest = tf.reduce_sum(tf.abs(output * given[3]))
    assert_within(one, other, rounding(T + D, largest))


def test_scores_of_any_size_neither_overflow_nor_vanish(rng):
    query, key, value, upstream = problem(rng, 2)
    given = (60 * query, 60 * key, value, upstream)
    output, *gradients = chunks(*given, mask={})
    assert np.abs(output).max() <= np.abs(value).max() + rounding(T, np.abs(value))
    assert all(np.all(np.isfinite(x)) for x in gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", FLOAT16])
def test_a_query_that_attends_to_nothing_is_finite_and_gives_no_gradient(dtype, rng):
    given = problem(rng, 2, dtype)
    hidden = np.zeros((B, T), bool)
    hidden[1] = True  # a row of padding only, and one of tokens
    output, d_query, d_key, d_value = chunks(*given, mask={"padding_mask": hidden})
    assert np.all(np.isfinite(tf.cast(output, tf.float32)))
    for gradient in (d_query, d_key, d_value):
        gradient = np.asarray(tf.cast(gradient, tf.float32))
        assert np.all(gradient[0] == 0) and np.all(np.isfinite(gradient))
        assert np.any(gradient[1] != 0)


# ---------------------------------------------------------------------- dropout


def kept_factors(mask, rate, seed):
    """[B, N, T, T]: what each weight is multiplied by, drawn chunk by chunk."""
    factors = np.zeros((B, N, T, T))
    for first in range(0, T, ROWS):
        last = min(first + ROWS, T)
        begin, end = AttentionMask(T, **mask).keys_of(first, last, T)
        ones = tf.ones([B, N, last - first, end - begin])
        factors[:, :, first:last, begin:end] = dropout(ones, rate, tf.random.fold_in(seed, first))
    return factors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mask", ["causal", "window", "padding"])
def test_dropout_is_the_same_forwards_and_backwards(mask, dtype, rng):
    given, seed, mask = problem(rng, 2, dtype), tf.constant([5, 6]), MASKS[mask]
    mine = chunks(*given, mask=mask, dropout_rate=0.3, seed=seed)
    factors = kept_factors(mask, 0.3, seed)
    assert_close(mine, given, dtype, seen=allowed(**mask), kept=factors)


def test_dropout_drops_its_share_independently_and_by_the_seed():
    factors = kept_factors({"causal": False}, 0.3, tf.constant([5, 6]))
    kept = factors > 0
    np.testing.assert_allclose(factors[kept], 1 / 0.7, rtol=1e-4)
    deviation = np.sqrt(0.3 * 0.7 / kept.size)
    assert abs(kept.mean() - 0.7) < 5 * deviation
    first, second = kept[:, :, :ROWS], kept[:, :, ROWS : 2 * ROWS]
    other = kept_factors({"causal": False}, 0.3, tf.constant([5, 7])) > 0
    for one, two in ((first, second), (kept, other)):
        assert abs((one & two).mean() - 0.49) < 5 * np.sqrt(0.25 / one.size)


def test_its_mean_is_what_no_dropout_gives(rng):
    given = problem(rng, 2)
    run = tf.function(lambda seed: chunks(*given, mask={}, dropout_rate=0.2, seed=seed)[0])
    several = np.stack([run(tf.constant([1, i])) for i in range(400)])
    expected = chunks(*given, mask={})[0]
    deviation = several.std(0) / np.sqrt(len(several))
    assert_within(several.mean(0), expected, 6 * deviation + 1e-6)


# ---------------------------------------------------------------------- when it is chosen


@pytest.fixture
def in_chunks(monkeypatch):
    """Rows of 20 tokens are long, and are computed 16 queries at a time."""

    def switch(on):
        monkeypatch.setattr(masks, "LONG_CAUSAL", 20 if on else 10**9)
        monkeypatch.setattr(masks, "LONG", 20 if on else 10**9)
        monkeypatch.setattr(attention_in_chunks, "_ROWS", ROWS)

    return switch


def test_short_rows_single_tokens_and_wanted_weights_are_computed_whole(
    in_chunks, rng, monkeypatch
):
    in_chunks(True)
    layer = MultiHeadAttention(2, causal=True)
    x = rng.normal(size=(B, T, 8)).astype("float32")
    expected = layer(x)
    calls = []
    monkeypatch.setattr(
        "tfllm.layers.scaled_dot_product.attention_in_chunks",
        lambda *given: calls.append(given) or tf.zeros_like(given[0]),
    )
    layer(x)
    assert len(calls) == 1
    whole, _ = layer(x, return_weights=True)
    assert_rounded(whole, expected, 3 * 8 + 2 * T)
    layer(x[:, :19])
    layer(x[:, :1], cache=tf.zeros([2, B, 2, T, 4]), cache_index=tf.constant(30))
    assert len(calls) == 1
    query, key, value, _ = problem(rng)
    dot_product_attention(query, key, value)
    assert len(calls) == 2
    dot_product_attention(query[:, :, :1], key, value)
    assert len(calls) == 2


def test_keys_that_a_chunk_does_not_see_are_not_multiplied(rng):
    given = problem(rng)
    run = tf.function(lambda *given: chunks(*given, mask=MASKS["window"])).get_concrete_function(
        *given
    )
    products = [op for op in run.graph.get_operations() if op.type.startswith("BatchMatMul")]
    lengths = {size for op in products for x in op.inputs for size in x.shape[2:]}
    assert T not in lengths and max(lengths) == ROWS + 9 - 1


# ---------------------------------------------------------------------- whole models

DECODER = ModelConfig(
    vocab_size=61,
    embedding_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    feed_forward_dim=40,
    max_sequence_length=T,
    sliding_window=9,
    window_layers=(1,),
)


def losses(make, data, in_chunks, on, steps=3):
    in_chunks(on)
    model = make()
    model.compile("sgd")
    return [float(model.train_on_batch(*data, return_dict=True)["loss"]) for _ in range(steps)]


def assert_same_losses(make, data, in_chunks, config):
    both = [losses(make, data, in_chunks, on) for on in (False, True)]
    assert_rounded(both[1], both[0], 3 * additions_of(config, T))
    assert len(set(both[0])) == 3  # it learns


@pytest.mark.parametrize("options", [{}, {"rematerialize": True}, {"accumulation": 2}], ids=str)
def test_a_decoder_learns_the_same(options, in_chunks, rng):
    ids = rng.integers(0, 61, (4, T)).astype("int32")
    given = {"token_ids": ids, "segment_ids": np.tile(SEGMENTS, (2, 1)).astype("int32")}

    def make():
        model = CausalLM(DECODER, rematerialize=options.get("rematerialize", False))
        model.gradient_accumulation = options.get("accumulation", 1)
        return model

    assert_same_losses(make, (given, ids), in_chunks, DECODER)


def test_an_adapter_learns_the_same(in_chunks, rng):
    ids = rng.integers(0, 61, (4, T)).astype("int32")

    def make():
        model = CausalLM(DECODER)
        model.enable_lora(2)
        return model

    assert_same_losses(make, (ids, ids), in_chunks, DECODER)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_an_encoder_learns_the_same(rematerialize, in_chunks, rng):
    config = EncoderConfig(
        61, embedding_dim=16, num_layers=2, num_heads=2, max_sequence_length=T, dropout=0.0
    )
    given = {"token_ids": rng.integers(0, 61, (2, T)).astype("int32"), "padding_mask": TOKENS}

    def make():
        encoder = Encoder(config, rematerialize=rematerialize)
        return SequenceClassifier(encoder, num_labels=2)

    assert_same_losses(make, (given, np.array([0, 1])), in_chunks, config)


@pytest.mark.parametrize("rematerialize", [False, True])
def test_relative_positions_learn_the_same(rematerialize, in_chunks, rng):
    config = EncoderDecoderConfig(
        61, embedding_dim=16, num_layers=1, num_heads=2, positions="relative", dropout=0.0
    )
    ids = rng.integers(0, 61, (2, T)).astype("int32")
    given = {"source_ids": ids[:, :40], "source_mask": TOKENS[:, :40], "token_ids": ids}
    make = functools.partial(EncoderDecoder, config, rematerialize=rematerialize)
    assert_same_losses(make, (given, ids), in_chunks, config)
    in_chunks(True)
    model = make()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(given, training=True))
    tables = [model.encoder.relative_positions.table, model.decoder.relative_positions.table]
    for gradient in tape.gradient(loss, [table.value for table in tables]):
        assert np.any(np.asarray(gradient) != 0)


def test_no_tensor_of_a_training_step_has_the_square_of_the_length(in_chunks):
    in_chunks(True)
    model = CausalLM(DECODER, rematerialize=True)

    @tf.function(autograph=False)
    def step(ids, segments):
        with tf.GradientTape() as tape:
            loss = model.loss_sums(
                {"token_ids": ids, "segment_ids": segments}, ids, tf.ones([2, T]), training=True
            )[0]
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    specification = tf.TensorSpec([2, T], tf.int32)
    graph = step.get_concrete_function(specification, specification).graph
    outputs = [x for op in graph.get_operations() for x in op.outputs if x.shape.rank is not None]
    assert len(outputs) > 1000
    assert not [x for x in outputs if [d for d in x.shape if d is not None].count(T) > 1]


def test_a_prompt_in_an_empty_cache_and_what_follows(in_chunks, rng):
    ids = rng.integers(0, 61, (2, T)).astype("int32")
    model = CausalLM(DECODER)
    expected = model.hidden_states(ids)[0]
    in_chunks(True)
    first, cache = model.hidden_states(ids[:, :26], cache=model.empty_cache(2, T + 4))
    cache = cache._replace(next_index=tf.constant(26))
    second, _ = model.hidden_states(ids[:, 26:], cache=cache)
    given = np.concatenate([first, second], 1)
    assert_rounded(given, expected, additions_of(DECODER, T))


REPLICAS = """
    import numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    from tfllm.config import ModelConfig
    from tfllm.layers import attention_in_chunks, masks
    from tfllm.models.causal_lm import CausalLM
    attention_in_chunks._ROWS = 16
    ids = np.random.default_rng(0).integers(0, 61, (4, 50)).astype("int32")
    for masks.LONG_CAUSAL in (10**9, 20):
        with strategy.scope():
            model = CausalLM(ModelConfig(
                vocab_size=61, embedding_dim=16, num_layers=1, num_heads=2, max_sequence_length=50
            ))
            model.compile("sgd")
        data = tf.data.Dataset.from_tensor_slices((ids, ids)).batch(4, drop_remainder=True)
        print(*model.fit(data.repeat(3), epochs=1, verbose=0).history["loss"])
"""


def test_replicas_learn_the_same():
    command = [sys.executable, "-c", textwrap.dedent(REPLICAS)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    whole, chunked = (float(line) for line in result.stdout.split()[-2:])
    assert_rounded(chunked, whole, 3 * additions_of(DECODER, T))


MEASURE = """
    import sys, tensorflow as tf
    from tfllm.layers import masks
    from tfllm.layers import MultiHeadAttention
    masks.LONG_CAUSAL = 1024 if sys.argv[1] == "chunks" else 10**9
    layer = MultiHeadAttention(8, causal=True)
    x, segments = tf.random.normal([1, 4096, 512]), tf.constant([[1] * 1000 + [2] * 3096])
    layer.build(x.shape)

    @tf.function
    def step(x, segments):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, segment_ids=segments) ** 2)
        return tape.gradient(loss, x)

    run = step.get_concrete_function(x, segments)
    before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    for _ in range(2):
        run(x, segments)
    print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) - before)
"""


@pytest.mark.slow
def test_memory_of_4096_tokens_is_at_most_a_third():
    peaks = {}
    for which in ("whole", "chunks"):
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), which]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[which] = int(result.stdout) / 1024
    print(f"MiB above the base: {peaks}")
    assert peaks["chunks"] < 0.35 * peaks["whole"]
