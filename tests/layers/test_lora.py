"""Low-rank updates compared with NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_rounded
from tfllm.layers.dropout import dropout
from tfllm.layers.lora import Lora, LoraPart
from tfllm.layers.projection import Projection

WIDTH, HEIGHT = 6, 11
PARTS = {
    "all rows": [(0, 11, 3, 2.0)],
    "rows in the middle": [(2, 5, 2, 0.5)],
    "parts of several ranks and scales": [(7, 11, 1, 3.0), (0, 4, 3, 0.5), (4, 6, 2, 1.0)],
}
ADDITIONS = WIDTH + 3 + HEIGHT
"""through A of rank 3 and B, and back in the gradient"""


def adapted(parts, dtype="float32", **options):
    """A projection with an adapter whose matrices are random, in use."""
    projection = Projection(HEIGHT, use_bias=True, dtype=dtype, name="projection")
    projection.build((None, WIDTH))
    rng = np.random.default_rng(0)
    for weight in projection.weights:
        weight.assign(rng.normal(size=weight.shape))
    lora = projection.add_adapter("one", parts, **options)
    for weight in lora.weights:
        weight.assign(rng.normal(size=weight.shape))
    projection.use_adapter("one")
    return projection


def float64(x):
    return np.asarray(tf.cast(x, tf.float64))


def update_of(projection, name="one"):
    """scale B A, rows of their own."""
    lora = projection.adapters[name]
    update = np.zeros((HEIGHT, WIDTH))
    for part, a, b in zip(lora.parts, lora.a, lora.b, strict=True):
        update[part.begin : part.end] = part.scale * float64(b) @ float64(a)
    return update


def expected(projection, x):
    kernel = float64(projection.kernel.value) + update_of(projection)
    return float64(x) @ kernel.T + float64(projection.bias.value)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("shape", [(4, WIDTH), (2, 3, WIDTH)])
def test_the_update_is_added_to_its_rows(parts, shape, rng):
    projection = adapted(parts)
    x = rng.normal(size=shape).astype("float32")
    y = projection(x)
    assert y.shape == (*shape[:-1], HEIGHT)
    assert_rounded(y, expected(projection, x), ADDITIONS)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_gradients_are_those_of_the_equation(parts, rng):
    projection = adapted(parts)
    x = tf.constant(rng.normal(size=(5, WIDTH)), tf.float32)
    upstream = rng.normal(size=(5, HEIGHT))
    lora = projection.adapters["one"]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([x, *(weight.value for weight in lora.weights)])
        loss = tf.reduce_sum(projection(x) * tf.constant(upstream, tf.float32))
    d_x, d_a, d_b = tape.gradient(loss, [x, [v.value for v in lora.a], [v.value for v in lora.b]])
    kernel = float64(projection.kernel.value) + update_of(projection)
    assert_rounded(d_x, upstream @ kernel, ADDITIONS)
    for part, a, b, da, db in zip(lora.parts, lora.a, lora.b, d_a, d_b, strict=True):
        of_rows = upstream[:, part.begin : part.end]
        assert_rounded(da, part.scale * float64(b).T @ of_rows.T @ float64(x), ADDITIONS)
        assert_rounded(db, part.scale * of_rows.T @ float64(x) @ float64(a).T, ADDITIONS)


def test_a_new_adapter_changes_nothing_and_is_random_by_its_seed(rng):
    x = rng.normal(size=(4, WIDTH)).astype("float32")
    projection = Projection(HEIGHT)
    before = projection(x).numpy()
    for name, seed in (("one", 1), ("same", 1), ("other", 2), ("empty", None)):
        projection.add_adapter(name, PARTS["all rows"], seed=seed)
        projection.use_adapter(name)
        np.testing.assert_array_equal(projection(x), before)
    a = {name: lora.a[0].numpy() for name, lora in projection.adapters.items()}
    np.testing.assert_array_equal(a["one"], a["same"])
    assert np.abs(a["one"]).max() <= WIDTH**-0.5 and np.abs(a["one"]).min() > 0
    assert (a["one"] != a["other"]).all() and not a["empty"].any()


def test_dropout_is_of_the_adapters_input_alone(rng):
    projection = adapted(PARTS["all rows"], dropout=0.4)
    x = rng.normal(size=(50, WIDTH)).astype("float32")
    seed = tf.constant([3, 4])
    kept = dropout(tf.constant(x), 0.4, seed)
    assert 0.3 < np.mean(kept == 0) < 0.5
    own = float64(x) @ float64(projection.kernel.value).T + float64(projection.bias.value)
    added = float64(kept) @ update_of(projection).T
    assert_rounded(projection(x, adapter_seed=seed), own + added, ADDITIONS)
    assert_rounded(projection(x), expected(projection, x), ADDITIONS)


def test_adapters_are_float32_beside_weights_in_bfloat16(rng):
    projection = adapted(PARTS["parts of several ranks and scales"], dtype="bfloat16")
    assert projection.kernel.dtype == "bfloat16"
    assert {v.dtype for v in projection.adapters["one"].weights} == {"float32"}
    x = rng.normal(size=(4, WIDTH)).astype("float32")
    y = projection(x)
    assert y.dtype == tf.bfloat16
    # The products' results are bfloat16: the base's, the adapter's, and their sum.
    assert_rounded(y, expected(projection, x), 3, "bfloat16")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(projection(x), tf.float32))
    gradients = tape.gradient(loss, [v.value for v in projection.adapters["one"].weights])
    assert all(g.dtype == tf.float32 and np.abs(g).max() > 0 for g in gradients)


def test_a_merged_update_is_rounded_once(rng):
    projection = adapted(PARTS["all rows"], dtype="bfloat16")
    kernel = tf.cast(projection.kernel.value, tf.float32)
    wanted = tf.cast(kernel + tf.cast(update_of(projection), tf.float32), tf.bfloat16)
    projection.merge_adapter("one")
    difference = np.abs(float64(projection.kernel.value) - float64(wanted))
    assert (difference > 0).mean() < 0.05  # of float32 sums in another order, none near a half


def test_adapters_are_used_in_turn_and_deleted(rng):
    projection = adapted(PARTS["all rows"])
    projection.add_adapter("two", PARTS["rows in the middle"], seed=1)
    x = rng.normal(size=(4, WIDTH)).astype("float32")
    with_one = projection(x).numpy() if projection.adapter else None
    projection.use_adapter("one")
    with_one = projection(x).numpy()
    projection.use_adapter(None)
    without = projection(x).numpy()
    assert np.abs(with_one - without).max() > 0.1
    assert len(projection.weights) == 2 + 2 + 2
    projection.use_adapter("one")
    projection.delete_adapter("two")
    np.testing.assert_array_equal(projection(x), with_one)
    projection.delete_adapter("one")
    np.testing.assert_array_equal(projection(x), without)
    assert [v.path for v in projection.weights] == ["projection/kernel", "projection/bias"]
    projection.delete_adapter("never")  # which is not there


@pytest.mark.parametrize(
    "parts", [[(0, 4, 1, 1.0), (3, 5, 1, 1.0)], [(4, 12, 1, 1.0)], [(3, 3, 1, 1.0)], [(0, 3, 0, 1)]]
)
def test_parts_that_cannot_be_are_refused(parts):
    with pytest.raises(ValueError, match="parts must be ranges of rows in order"):
        Lora(HEIGHT, parts)


def test_dropout_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\); received 1"):
        Lora(HEIGHT, PARTS["all rows"], dropout=1.0)


def test_a_layer_comes_back_from_its_config():
    layer = Lora(HEIGHT, PARTS["rows in the middle"], dropout=0.1, seed=3, name="x")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert again.parts == (LoraPart(2, 5, 2, 0.5),)
    assert again.compute_output_shape((7, WIDTH)) == (7, HEIGHT)
