"""The contract of every layer, whatever it computes, tested over one table of layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_rounded
from tfllm import layers

B, T, S, E = 2, 6, 5, 16
ADDITIONS = 2 * (3 * E + 2 * T) + 2 * E + 24
"""on the longest way through a layer, which is a block with cross-attention"""


@dataclasses.dataclass
class Case:
    """A layer, the other tensors of its call, and whether its result is added to x."""

    layer: type
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    context: bool = False
    masks: tuple[str, ...] = ()
    added: bool = False
    float32_output: bool = False


CASES = {
    "projection": Case(layers.Projection, {"output_dim": 7, "use_bias": True}),
    "feed_forward": Case(layers.FeedForward, {"hidden_dim": 24, "gated": False, "use_bias": True}),
    "gated_feed_forward": Case(layers.FeedForward, {"hidden_dim": 24, "activation": "gelu_tanh"}),
    "rms_norm": Case(layers.RMSNorm, {"epsilon": 1e-6}),
    "layer_norm": Case(layers.LayerNorm, {"epsilon": 1e-6}),
    "learned_positions": Case(layers.LearnedPositions, {"max_length": T}, added=True),
    "sinusoidal_positions": Case(layers.SinusoidalPositions, {"base": 500.0}, added=True),
    "attention": Case(
        layers.MultiHeadAttention, {"num_heads": 4, "use_bias": True}, masks=("padding_mask",)
    ),
    "grouped_rotary_attention": Case(
        layers.MultiHeadAttention,
        {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "rope_theta": 1e4, "causal": True},
        masks=("padding_mask", "segment_ids"),
    ),
    "windowed_normalised_attention": Case(
        layers.MultiHeadAttention,
        {
            "num_heads": 4,
            "num_kv_heads": 2,
            "causal": True,
            "sliding_window": 3,
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "query_key_norm": True,
            "norm_epsilon": 1e-6,
            "output_bias": True,
        },
        masks=("padding_mask", "segment_ids"),
    ),
    "cross_attention": Case(
        layers.MultiHeadAttention,
        {"num_heads": 4, "num_kv_heads": 2, "cross_attention": True, "dropout": 0.1, "seed": 3},
        context=True,
    ),
    "llama_block": Case(
        layers.TransformerBlock,
        {"num_heads": 4, "num_kv_heads": 2, "causal": True, "rope_theta": 1e4},
        masks=("padding_mask", "segment_ids"),
        float32_output=True,
    ),
    "qwen_block": Case(
        layers.TransformerBlock,
        {
            "num_heads": 4,
            "num_kv_heads": 2,
            "causal": True,
            "sliding_window": 3,
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "query_key_norm": True,
            "query_key_value_bias": True,
            "attention_output_bias": False,
            "feed_forward_bias": True,
        },
        masks=("segment_ids",),
        float32_output=True,
    ),
    "gpt2_block": Case(
        layers.TransformerBlock,
        {
            "num_heads": 4,
            "hidden_dim": 20,
            "causal": True,
            "norm": "layer",
            "activation": "gelu_tanh",
            "gated": False,
            "use_bias": True,
            "dropout": 0.1,
            "seed": 3,
        },
        float32_output=True,
    ),
    "decoder_block_of_2017": Case(
        layers.TransformerBlock,
        {
            "num_heads": 4,
            "norm": "layer",
            "norm_first": False,
            "activation": "relu",
            "gated": False,
            "cross_attention": True,
            "causal": True,
        },
        context=True,
        masks=("padding_mask", "context_padding_mask"),
        float32_output=True,
    ),
    "rematerialized_block": Case(
        layers.TransformerBlock,
        {"num_heads": 4, "rematerialize": True, "dropout": 0.1},
        masks=("segment_ids",),
        float32_output=True,
    ),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def tensors(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    given: dict[str, np.ndarray] = {"x": rng.normal(size=(B, T, E)).astype("float32")}
    if case.context:
        given["context"] = rng.normal(size=(B, S, 10)).astype("float32")
    masks = {
        "padding_mask": np.array([[1] * T, [1] * 4 + [0] * 2], bool),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 3, 3]], "int32"),
        "context_padding_mask": np.array([[1] * S, [1] * 3 + [0] * 2], bool),
    }
    return given | {name: masks[name] for name in case.masks}


def functional(case: Case, known_shapes: bool = True, **options: Any) -> keras.Model:
    """x -> layer -> Dense, with masks and context as symbolic keyword arguments."""
    inputs = {
        name: keras.Input(
            t.shape[1:]
            if known_shapes
            else [None] * (t.ndim - 2) + [t.shape[-1]] * (t.ndim > 2) or [None],
            dtype=t.dtype.name,
            name=name,
        )
        for name, t in tensors(case).items()
    }
    layer = case.layer(**case.options, **options)
    h = layer(inputs["x"], **{name: i for name, i in inputs.items() if name != "x"})
    if case.added:
        h = inputs["x"] + h
    return keras.Model(inputs, keras.layers.Dense(3)(h))


def test_config_round_trip(case):
    layer = case.layer(**case.options, name="a_name", dtype="mixed_bfloat16")
    config = layer.get_config()
    copy = case.layer.from_config(config)
    assert copy.get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    assert keras.saving.deserialize_keras_object(serialized).get_config() == config
    for name, value in case.options.items():
        assert config[name] == value


def test_keras_file_round_trip(case, tmp_path):
    model = functional(case)
    for i, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(i).normal(size=weight.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(tensors(case)), model(tensors(case)))


class Chain(keras.layers.Layer):
    """A layer, and dropout behind it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.dropout = layer, keras.layers.Dropout(0.5, seed=0)

    def call(self, x, **options):
        return self.dropout(self.layer(x, **options))


def test_a_layer_behind_it_is_not_told_to_train(case):
    """Keras passes a layer's default of `training` on to the layers after it."""
    layer, given = case.layer(**case.options), tensors(case)
    y = layer(**given)
    np.testing.assert_array_equal(Chain(layer)(**given), y)


@pytest.mark.parametrize("known_shapes", [True, False])
def test_symbolic_call_equals_eager_call(case, known_shapes):
    model = functional(case, known_shapes)
    (layer,) = [found for found in model.layers if isinstance(found, case.layer)]
    given = tensors(case)
    h = layer(**given)
    if case.added:
        h = given["x"] + h
    eager = model.layers[-1](h)
    assert_rounded(model(given), eager, ADDITIONS)
    assert layer.output.shape[-1] == h.shape[-1]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_fit_step_in_each_precision(case, dtype):
    model = functional(case, dtype=dtype)
    (layer,) = [found for found in model.layers if isinstance(found, case.layer)]
    compute = "float32" if case.float32_output else layer.compute_dtype
    given = tensors(case)
    result = layer(**given)
    assert result.dtype == compute
    assert layer.output.dtype == compute
    assert np.all(np.isfinite(tf.cast(result, tf.float32)))
    assert all(w.dtype == "float32" for w in layer.weights)
    before = [np.array(w) for w in layer.trainable_weights]
    # Tracing is what costs time here, so that only one of the three is traced.
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=dtype != "mixed_bfloat16")
    history = model.fit(given, np.ones((B, T, 3)), batch_size=B, epochs=2, verbose=0)
    losses = history.history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[1] != losses[0]
    for old, new in zip(before, layer.trainable_weights, strict=True):
        assert np.all(np.isfinite(new))
        assert np.any(np.asarray(new) != old) or "bias" in new.path


def test_a_gradient_reaches_every_weight(case):
    layer = case.layer(**case.options)
    given = {name: tf.convert_to_tensor(t) for name, t in tensors(case).items()}
    layer(**given)
    with tf.GradientTape() as tape:
        tape.watch(given["x"])
        loss = tf.reduce_sum(
            tf.sin(layer(**given, training=True) if _trains(layer) else layer(**given))
        )
    weights = layer.trainable_weights
    gradients = tape.gradient(loss, [w.value for w in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None, weight.path
        # A bias of the keys shifts all scores of a query alike: softmax does not see it.
        assert np.any(np.asarray(tf.convert_to_tensor(gradient)) != 0), weight.path


def _trains(layer: keras.layers.Layer) -> bool:
    return layer._call_has_training_arg


def test_it_compiles_with_xla(case):
    layer = case.layer(**case.options)
    given = {name: tf.convert_to_tensor(t) for name, t in tensors(case).items()}
    eager = layer(**given)
    compiled = tf.function(lambda given: layer(**given), jit_compile=True)(given)
    assert_rounded(compiled, eager, ADDITIONS)
