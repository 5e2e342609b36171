"""Adapters of a whole model: merging, switching, freezing, saving."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import UNIT_ROUNDOFF, assert_within, weight_rounding
from tfllm.config import ConfigError, LoraConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM

IDS = np.arange(24).reshape(2, 12)


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.2, variable.shape))
    return model


@pytest.fixture
def adapted(tiny_config):
    model = CausalLM(tiny_config, seed=3)
    model.add_adapter(LoraConfig(rank=2, dropout=0.1))
    return randomized(model)


def values(model):
    return {variable.path: variable.numpy() for variable in model.weights}


def test_merging_changes_no_logits_and_merging_twice_changes_nothing(adapted):
    own = [variable.path for variable in adapted.own_weights]
    expected = adapted(IDS).numpy()
    bound = weight_rounding(adapted, lambda: adapted(IDS))
    before = values(adapted)
    adapted.merge_adapter()
    assert adapted.adapters == () and adapted.adapter is None
    assert [variable.path for variable in adapted.weights] == own
    assert all(variable.trainable for variable in adapted.weights)
    assert_within(adapted(IDS), expected, bound)
    once = values(adapted)
    assert any((once[path] != before[path]).any() for path in own)
    adapted.merge_adapter()
    for path, value in values(adapted).items():
        np.testing.assert_array_equal(value, once[path], err_msg=path)


def test_merging_is_exact(adapted):
    """W + scale B A in float64, rounded to float32."""
    kernel = adapted.blocks[1].feed_forward.inner
    (up, gate) = kernel.adapters["default"].parts
    wanted = kernel.kernel.numpy().astype("float64")
    lora = kernel.adapters["default"]
    for part, a, b in zip((up, gate), lora.a, lora.b, strict=True):
        update = b.numpy().astype("float64") @ a.numpy().astype("float64")
        wanted[part.begin : part.end] += 8.0 * update  # alpha / rank
    adapted.merge_adapter()
    assert_within(kernel.kernel, wanted, 2 * UNIT_ROUNDOFF["float32"] * np.abs(wanted).max())


def test_what_cannot_be_merged_is_refused(adapted):
    adapted.add_adapter(LoraConfig(rank=1), "second")
    with pytest.raises(ValueError, match=r"delete them first with delete_adapter\(\): default"):
        adapted.merge_adapter()
    adapted.delete_adapter("second")
    with pytest.raises(ValueError, match="no adapter is in use"):
        adapted.merge_adapter()
    adapted.set_adapter("default")
    adapted.merge_adapter()


def test_only_the_adapter_in_use_is_trained(adapted):
    first = {variable.path for variable in adapted.trainable_variables}
    assert first and all("/default/" in path for path in first)
    adapted.add_adapter(LoraConfig(rank=1, targets="v_proj", layers=(1,)), "second")
    assert {v.path.partition("/")[2] for v in adapted.trainable_variables} == {
        "block_1/attention/query_key_value/second/a_24_32",
        "block_1/attention/query_key_value/second/b_24_32",
    }
    adapted.set_adapter(None)
    assert adapted.trainable_variables == []
    adapted.set_adapter("default")
    assert {variable.path for variable in adapted.trainable_variables} == first


def test_compiled_functions_follow_the_adapter_in_use(adapted):
    adapted.compile("sgd")
    y = np.zeros_like(IDS)
    with_it = adapted.evaluate(IDS, y, verbose=0, return_dict=True)["loss"]
    adapted.set_adapter(None)
    without = adapted.evaluate(IDS, y, verbose=0, return_dict=True)["loss"]
    adapted.set_adapter("default")
    again = adapted.evaluate(IDS, y, verbose=0, return_dict=True)["loss"]
    assert with_it == again and abs(with_it - without) > 0.01


def test_top_blocks_are_trained_with_what_lies_above(tiny_config):
    model = CausalLM(tiny_config)
    model.train_top(1)
    names = {v.path.split("/")[1] for v in model.trainable_variables}
    assert names == {"block_1", "final_norm"}  # the output matrix is the embedding
    untied = CausalLM(ModelConfig(**{**vars(tiny_config), "tied_embeddings": False}))
    untied.train_top(0)
    names = {v.path.partition("/")[2] for v in untied.trainable_variables}
    assert names == {"final_norm/scale", "output_kernel"}
    with pytest.raises(ConfigError, match=r"top_layers must lie in \[0, 2\]"):
        model.train_top(3)


def test_what_was_frozen_stays_frozen_once_the_adapter_is_gone(tiny_config):
    model = CausalLM(tiny_config)
    model.train_top(1)
    before = {v.path for v in model.trainable_variables}
    model.add_adapter(LoraConfig(rank=1))
    with pytest.raises(ValueError, match="has adapters"):
        model.train_top(1)
    model.delete_adapter("default")
    assert {v.path for v in model.trainable_variables} == before


def test_a_saved_keras_model_keeps_its_adapters(adapted, tmp_path):
    adapted.add_adapter(LoraConfig(rank=1, targets="q_proj"), "second")
    randomized(adapted, seed=1)
    adapted.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.adapters, again.adapter) == (("default", "second"), "second")
    for name in (None, "default", "second"):
        again.set_adapter(name)
        adapted.set_adapter(name)
        np.testing.assert_array_equal(again(IDS), adapted(IDS))
    assert again.dropout_of("default") == 0.1


def test_a_copy_in_another_dtype_has_the_adapter_merged(adapted):
    copy = adapted.with_dtype("float32")
    assert copy.adapters == ()
    assert_within(copy(IDS), adapted(IDS), weight_rounding(adapted, lambda: adapted(IDS)))
    adapted.set_adapter(None)
    np.testing.assert_array_equal(adapted.with_dtype("float32")(IDS), adapted(IDS))


def test_an_adapter_of_weights_in_bfloat16_learns(tiny_config):
    model = CausalLM(tiny_config, seed=3, dtype="bfloat16")
    model.add_adapter(LoraConfig(rank=2))
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    before = [v.numpy() for v in model.own_weights]
    model.compile(keras.optimizers.Adam(0.02))
    y = np.full_like(IDS, 7)
    losses = model.fit(IDS, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.1
    for variable, value in zip(model.own_weights, before, strict=True):
        np.testing.assert_array_equal(tf.cast(variable.value, tf.float32), value.astype("float32"))


def test_an_adapter_enabled_after_training_is_trained_by_a_new_optimizer(tiny_config):
    def compiled():
        model = CausalLM(dataclasses.replace(tiny_config, num_layers=1), seed=3)
        model.compile(keras.optimizers.Adam(0.02, beta_1=0.8, clipnorm=1.0))
        return model

    model, other = compiled(), compiled()
    model.make_train_function()
    model.optimizer.iterations.assign(5)
    first = model.optimizer.get_config()
    model.enable_lora(2)
    other.enable_lora(2)
    with pytest.warns(UserWarning, match=r"\(Adam\) was built for other weights .* its step 0"):
        model.train_on_batch(IDS, IDS)
    other.train_on_batch(IDS, IDS)
    assert model.optimizer.get_config() == first and int(model.optimizer.iterations) == 1
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=mine.path)
    second = model.optimizer
    for name in (None, "default"):  # as for a look at the model without it
        model.set_adapter(name)
    model.make_train_function()
    assert model.optimizer is second
    model.delete_adapter("default")
    with pytest.warns(UserWarning, match="as after a change of adapters"):
        model.make_train_function()


def test_an_optimizer_that_cannot_be_made_anew_is_refused_in_words(tiny_config):
    class Mine(keras.optimizers.SGD):
        def __init__(self, needed):
            super().__init__(0.1)

    model = CausalLM(tiny_config)
    model.compile(Mine(1))
    model.optimizer.build(model.trainable_variables)
    model.enable_lora(2)
    with pytest.raises(ValueError, match=r"\(Mine\) was built for .* compile\(\) the model"):
        model.train_on_batch(IDS, IDS)


def test_dropout_of_adapters_is_another_in_each_step_and_none_in_evaluation(adapted):
    adapted.compile(keras.optimizers.SGD(0.0))
    y = np.zeros_like(IDS)
    losses = [adapted.train_on_batch(IDS, y, return_dict=True)["loss"] for _ in range(2)]
    adapted.optimizer.iterations.assign(1)
    adapted.optimizer.iterations.assign(0)
    adapted.reset_metrics()
    again = adapted.train_on_batch(IDS, y, return_dict=True)["loss"]
    assert float(again) == float(losses[0])
    np.testing.assert_array_equal(adapted(IDS), adapted(IDS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "q_porj"}, "unknown LoRA target 'q_porj'; did you mean 'q_proj'"),
        ({"targets": "lm_head"}, "unknown LoRA target 'lm_head'"),
        ({"layers": (0, 2)}, r"layers must lie in \[0, 2\)"),
        ({"targets": ("c_attn", "k_proj")}, "must not name a projection twice"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(options, message, tiny_config):
    model = CausalLM(tiny_config)
    with pytest.raises(ConfigError, match=message):
        model.add_adapter(LoraConfig(**options))
    assert model.adapters == () and all(v.trainable for v in model.weights)


def test_names_of_adapters_are_held_against_those_there_are(adapted):
    for name in ("default", "", "a/b"):
        with pytest.raises(ValueError, match="must be new, not empty"):
            adapted.add_adapter(LoraConfig(), name)
    for method in (adapted.set_adapter, adapted.delete_adapter):
        with pytest.raises(ValueError, match="unknown adapter 'defult'; did you mean 'default'"):
            method("defult")


def test_a_plain_feed_forward_has_no_gate():
    sizes = {"vocab_size": 30, "embedding_dim": 8, "num_layers": 1, "num_heads": 2}
    model = CausalLM(ModelConfig(**sizes, gated=False))
    with pytest.raises(ConfigError, match="gate_proj needs a gated feed-forward layer"):
        model.add_adapter(LoraConfig(targets="gate_proj"))
    model.add_adapter(LoraConfig(rank=1))
    names = [v.path.split("/")[-3] for v in model.trainable_variables]
    assert set(names) == {"query_key_value", "output", "up", "down"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"targets": ()}, "targets must name a projection"),
        ({"layers": ()}, "layers must name a block"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**values)
