"""The chunked loss compared with TensorFlow's loss of all logits."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import SIDES, assert_rounded, assert_within, input_rounding, rounding
from tfllm.optimization.linear_cross_entropy import _chunk, linear_cross_entropy, token_losses

R, E, V = 50, 12, 37
ADDITIONS = E + V + R
"""a logit, the sum of a row's exponentials, the sum over the rows"""


def problem(rng, scale=1.0, dtype=tf.float32):
    hidden = tf.constant(rng.normal(size=(R, E)) * scale, dtype)
    kernel = tf.constant(rng.normal(size=(V, E)), dtype)
    labels = tf.constant(rng.integers(0, V, size=R), tf.int32)
    weights = tf.constant(rng.random(R) * (rng.random(R) < 0.7), tf.float32)
    return hidden, kernel, labels, weights


def stock(hidden, kernel, labels, weights):
    """Value and gradients by TensorFlow, in float64."""
    hidden, kernel, weights = (tf.cast(t, tf.float64) for t in (hidden, kernel, weights))
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel])
        logits = tf.matmul(hidden, kernel, transpose_b=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_sum(losses * weights)
    return loss, *tape.gradient(loss, [hidden, kernel])


def ours(hidden, kernel, labels, weights, **options):
    with tf.GradientTape() as tape:
        tape.watch([hidden, kernel])
        loss = linear_cross_entropy(hidden, kernel, labels, weights, **options)
    return loss, *tape.gradient(loss, [hidden, kernel])


def assert_close(mine, given, dtype="float32", besides=(0, 0, 0)):
    """Value and gradients, by how much the exact ones move as the numbers of a product do, and by
    what rounds `besides`."""
    hidden, kernel, *rest = given
    bounds = input_rounding(lambda h, k: stock(h, k, *rest), hidden, kernel, dtype=dtype)
    for value, theirs, bound, more in zip(mine, stock(*given), bounds, besides, strict=True):
        assert_within(value, theirs, bound / SIDES + more)


@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 25, 49, 50, 64])
def test_values_and_gradients_are_tensorflows_in_any_chunking(chunk_rows, rng):
    given = problem(rng)
    loss, *gradients = ours(*given, chunk_rows=chunk_rows)
    assert_close((loss, *gradients), given)
    value = linear_cross_entropy(*given, chunk_rows=chunk_rows, with_gradient=False)
    assert_close((value, *gradients), given)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("known_rows", [False, True])
@pytest.mark.parametrize("chunk_rows", [None, 16])
def test_in_a_graph(jit_compile, known_rows, chunk_rows, rng):
    given = problem(rng)
    rows = R if known_rows else None
    graph = tf.function(
        lambda *given: ours(*given, chunk_rows=chunk_rows),
        input_signature=[
            tf.TensorSpec([rows, E]),
            tf.TensorSpec([V, E]),
            tf.TensorSpec([rows], tf.int32),
            tf.TensorSpec([rows]),
        ],
        jit_compile=jit_compile,
    )
    sizes = [R] if known_rows else [R, 1, 33]
    for size in sizes:
        part = [given[0][:size], given[1], given[2][:size], given[3][:size]]
        for mine, theirs in zip(graph(*part), stock(*part), strict=True):
            assert_rounded(mine, theirs, ADDITIONS)


def test_no_rows_are_no_loss(rng):
    _, kernel, _, _ = problem(rng)
    empty = (tf.zeros([0, E]), kernel, tf.zeros([0], tf.int32), tf.zeros([0]))
    assert [float(tf.reduce_sum(t)) for t in ours(*empty)] == [0, 0, 0]


def test_few_rows_of_unknown_number_do_not_fill_a_large_chunk(monkeypatch):
    """A small vocabulary has chunks of many thousand rows: they must not be computed for ten."""
    graph = tf.function(
        lambda h, k, y, w: ours(h, k, y, w),
        input_signature=[
            tf.TensorSpec([None, 4]),
            tf.TensorSpec([8, 4]),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None]),
        ],
    )
    seen = []

    def chunk(hidden, *rest):
        seen.append(hidden.shape[0])
        return _chunk(hidden, *rest)

    monkeypatch.setattr("tfllm.optimization.linear_cross_entropy._chunk", chunk)
    graph.get_concrete_function()
    assert seen == [None]  # a number would be the largest chunk's, whatever the rows


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_the_loss_is_exact_where_probabilities_underflow(scale, rng):
    given = problem(rng, scale)
    probabilities = tf.nn.softmax(tf.matmul(given[0], given[1], transpose_b=True))
    assert float(tf.reduce_min(tf.gather(probabilities, given[2], batch_dims=1))) < 1e-37
    # Where a probability is nearly 1, its distance from 1 is its rounding.
    assert_close(ours(*given), given, besides=(0, rounding(1, given[1]), rounding(1, given[0])))


@pytest.mark.parametrize("chunk_rows", [None, 16])
def test_rows_of_weight_zero_count_for_nothing(chunk_rows, rng):
    hidden, kernel, labels, _ = problem(rng)
    weights = np.ones(R, "float32")
    weights[10:] = 0
    spoiled = np.array(hidden)
    spoiled[20:] = np.inf  # not even where they are infinite
    loss, _, _ = ours(tf.constant(spoiled), kernel, labels, weights, chunk_rows=chunk_rows)
    expected = stock(hidden[:10], kernel, labels[:10], weights[:10])[0]
    assert_rounded(loss, expected, ADDITIONS)
    nothing = ours(hidden, kernel, labels, 0 * weights, chunk_rows=chunk_rows)
    assert all(np.all(np.asarray(t) == 0) for t in nothing)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("chunk_rows", [None, 16])
def test_low_precision_is_close(dtype, chunk_rows, rng):
    given = problem(rng, 0.5, dtype)
    loss, *gradients = ours(*given, chunk_rows=chunk_rows)
    assert loss.dtype == tf.float32
    assert [gradient.dtype for gradient in gradients] == [dtype] * 2
    assert_close((loss, *gradients), given, dtype)


@pytest.mark.parametrize("chunk_rows", [None, 40_000])
def test_float16_sums_over_many_rows_do_not_overflow(chunk_rows):
    rows = 90_000
    hidden = tf.fill([rows, 2], tf.constant(3.0, tf.float16))
    kernel = tf.zeros([4, 2], tf.float16)
    labels = tf.zeros([rows], tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = linear_cross_entropy(hidden, kernel, labels, tf.ones([rows]), chunk_rows=chunk_rows)
        mean = loss / rows
    gradient = np.asarray(tape.gradient(mean, kernel), "float64")
    # Sums are float32: what float16 rounds are a row's share, its product, the sum and the mean.
    bound = rounding(2, dtype="float16") / SIDES
    assert_within(gradient[0], [-3 * 0.75] * 2, 3 * 0.75 * bound)
    assert_within(gradient[1:], np.full((3, 2), 0.75), 0.75 * bound)


@pytest.mark.parametrize("chunk_rows", [None, 7, 64])
def test_token_losses_are_each_rows_own(chunk_rows, rng):
    hidden, kernel, labels, _ = problem(rng, 30.0)
    logits = tf.matmul(hidden, kernel, transpose_b=True)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    mine = token_losses(hidden, kernel, labels, chunk_rows=chunk_rows)
    assert_rounded(mine, expected, E + V)


MEASURE = """
    import sys, tensorflow as tf
    from tfllm.optimization.linear_cross_entropy import linear_cross_entropy
    rows, width, vocab_size = 4096, 64, 49152
    hidden, kernel = tf.random.normal([rows, width]), tf.random.normal([vocab_size, width])
    labels = tf.random.uniform([rows], 0, vocab_size, tf.int32)

    @tf.function
    def step(hidden, kernel, labels):
        with tf.GradientTape() as tape:
            tape.watch([hidden, kernel])
            if sys.argv[1] == "ours":
                loss = linear_cross_entropy(hidden, kernel, labels, tf.ones([rows]))
            else:
                logits = tf.matmul(hidden, kernel, transpose_b=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                loss = tf.reduce_sum(losses)
        return tape.gradient(loss, [hidden, kernel])

    step.get_concrete_function(hidden, kernel, labels)
    before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    step(hidden, kernel, labels)
    print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) - before)
"""


@pytest.mark.slow
def test_peak_memory_is_at_most_a_third():
    peaks = {}
    for which in ("ours", "stock"):
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), which]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[which] = int(result.stdout) / 1024
    print(f"MiB above the base: {peaks}")
    assert peaks["ours"] < peaks["stock"] / 3
