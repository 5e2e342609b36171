"""A layer takes its configuration as one value or as arguments, and saved ones are read again."""

import dataclasses

import keras
import numpy as np
import pytest

from tfllm.layers import AttentionConfig, BlockConfig, MultiHeadAttention, TransformerBlock

FIELDS = {"num_heads": 4, "num_kv_heads": 2, "causal": True, "rope_theta": 500.0, "use_bias": True}
SCALING = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("layer", "config"), [(MultiHeadAttention, AttentionConfig), (TransformerBlock, BlockConfig)]
)
def test_a_configuration_is_its_fields(layer, config, rng):
    x = rng.normal(size=(2, 5, 16)).astype(np.float32)
    values = config(**FIELDS, rope_scaling=SCALING)
    options = {"kernel_initializer": keras.initializers.GlorotNormal(seed=3), "name": "layer"}
    first = layer(values, **options)
    second = layer(**FIELDS, rope_scaling=SCALING, **options)
    third = layer.from_config(first.get_config())
    assert first.config == second.config == third.config == values
    assert first.get_config() == second.get_config() == third.get_config()
    np.testing.assert_array_equal(first(x), second(x))
    np.testing.assert_array_equal(first(x), third(x))


@pytest.mark.parametrize(
    ("layer", "config"), [(MultiHeadAttention, AttentionConfig), (TransformerBlock, BlockConfig)]
)
def test_a_configuration_and_fields_are_refused_together(layer, config):
    with pytest.raises(
        TypeError, match=f"takes a {config.__name__} or its fields, not both.*causal"
    ):
        layer(config(num_heads=4), causal=True)
    with pytest.raises(TypeError, match=f"takes a {config.__name__} or its fields, not both"):
        layer(config(num_heads=4), 16)
    with pytest.raises(TypeError, match="num_heads"):
        layer(causal=True)


def test_the_first_fields_may_be_positional():
    assert TransformerBlock(4, 32).config == BlockConfig(num_heads=4, hidden_dim=32)
    assert MultiHeadAttention(4, 6).config == AttentionConfig(num_heads=4, head_dim=6)


def test_each_field_is_saved_by_its_name():
    for layer, config in ((MultiHeadAttention, AttentionConfig), (TransformerBlock, BlockConfig)):
        saved = layer(num_heads=4).get_config()
        assert {field.name for field in dataclasses.fields(config)} <= saved.keys()


def test_attention_to_the_context_has_no_positions_and_no_mask():
    block = BlockConfig(
        num_heads=4, causal=True, sliding_window=3, rope_theta=1e4, cross_attention=True,
        dropout=0.1, attention_dropout=0.2, use_bias=True, attention_output_bias=False,
    )  # fmt: skip
    own, across = block.attention(), block.attention(cross=True)
    assert (own.causal, own.sliding_window, own.rope_theta) == (True, 3, 1e4)
    assert across == AttentionConfig(
        num_heads=4, cross_attention=True, dropout=0.2, use_bias=True, output_bias=False
    )
