"""Keras' `quantize` on tfllm's models, and on models made of tfllm's layers."""

import warnings

import keras
import numpy as np
import pytest

import tfllm
from tests.optimization.labelled_models import ENCODER, IDS, LABELS, MODELS, T, V, of
from tests.rounding import assert_within, weight_rounding
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.models.preference_tuning import PreferenceTuning

STEPS = {"int8": 2 / 127 / np.sqrt(12), "int4": 2 / 7 / np.sqrt(12), "float8": 2**-4 / np.sqrt(3)}
"""The deviation of what is rounded off a number, beside that of its row: integers are even parts of
the row's largest number, of about two deviations in rows this short; float8 has three bits."""
CASES = [name for name in MODELS if name != "functional"]


def assert_near(given, exact, mode, roundings):
    """As near as that many matrices and inputs behind one another are, whose errors are as good as
    independent, and twice that."""
    most = 2 * STEPS[mode] * np.sqrt(roundings) * exact.std()
    assert 0 < np.sqrt(np.mean((given - exact) ** 2)) < most


@pytest.mark.parametrize("name", CASES)
def test_quantizing_in_place_gives_what_a_copy_in_int8_gives(name, tmp_path):
    model, x, _ = of(name)
    outputs = np.asarray(model(x))
    expected = np.asarray(model.with_dtype("int8_float32")(x))
    model.quantize("int8")
    np.testing.assert_array_equal(np.asarray(model(x)), expected)
    assert_near(expected, outputs, "int8", sum(v.dtype == "int8" for v in model.weights))
    assert {v.dtype for v in model.weights} == {"int8", "float32"}
    assert model.compiled
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(x)), expected)
    with pytest.raises(ValueError, match="quantized already"):
        model.quantize("int8")


def test_the_loss_of_a_tied_model_stays_what_it_was():
    model = tfllm.Transformer(V, 8, 2, 1, max_sequence_length=T, initializer_range=0.5)
    model.compile("sgd")
    logits = np.asarray(model(IDS))
    before = model.evaluate(IDS, LABELS, verbose=0, return_dict=True)["loss"]
    model.quantize("int8")
    after = model.evaluate(IDS, LABELS, verbose=0, return_dict=True)["loss"]
    # A loss moves no further than its logits do: those of five matrices, twice.
    most = 2 * STEPS["int8"] * np.sqrt(5) * logits.std()
    assert after == pytest.approx(before, abs=most, rel=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_language_model_is_decoded_as_one_and_saved_in_floats(tied, tmp_path):
    model = tfllm.Transformer(V, 8, 2, 1, max_sequence_length=64, tied_embeddings=tied)
    copy = model.with_dtype("int8_float32")
    model.quantize(config=keras.quantizers.Int8QuantizationConfig())
    assert CausalLMDecoder(model).dtype == "int8"
    with pytest.raises(ValueError, match="cannot hold int8 weights"):
        tfllm.save(model, tmp_path / "folder")
    tfllm.save(model.with_dtype("float32"), tmp_path / "folder")
    again = tfllm.pretrained.load(tmp_path / "folder").model  # text needs a tokenizer
    assert_within(again(IDS), copy(IDS), weight_rounding(again, lambda: again(IDS)))


def test_what_is_trained_besides_the_matrices_is_trained_afterwards_too():
    model, x, y = of("causal_lm")
    model.add_adapter(tfllm.LoraConfig(rank=2))
    model.gradient_accumulation = 2
    model.compile("adam")
    expected = {v.path for v in model.trainable_variables}
    model.quantize("int8")
    assert {v.path for v in model.trainable_variables} == expected
    assert model.gradient_accumulation == 2 and model.adapter == "default"
    model.optimizer.learning_rate = 0.05
    losses = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", CASES)
def test_other_modes_are_refused_and_change_nothing(name):
    model, x, _ = of(name)
    before = np.asarray(model(x))
    for mode in ("int4", "float8"):
        with pytest.raises(ValueError, match=f"must be 'int8' .* received '{mode}'"):
            model.quantize(mode)
    for mode, config in (("gptq", "GPTQConfig"), ("awq", "AWQConfig")):
        own = getattr(keras.quantizers, config)(dataset=["a"], tokenizer=str)
        with pytest.raises(ValueError, match=f"must be 'int8' .* received '{mode}'"):
            model.quantize(config=own)
    with pytest.raises(ValueError, match="leave filters out"):
        model.quantize("int8", filters="block")
    with pytest.raises(ValueError, match="another weight_quantizer is not supported"):
        own = keras.quantizers.AbsMaxQuantizer(axis=0)
        model.quantize(config=keras.quantizers.Int8QuantizationConfig(weight_quantizer=own))
    np.testing.assert_array_equal(np.asarray(model(x)), before)
    assert model.dtype_policy.name == "float32"
    with pytest.raises(ValueError, match=r"tuning\.model\.quantize"):
        PreferenceTuning(MODELS["causal_lm"][0]()).quantize("int8")


def in_another(name):
    """A functional model of Keras with one of ours as a layer, and a layer of Keras behind it."""
    ids = keras.Input((T,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(3)(MODELS[name][0]()(ids)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Keras names each layer that stays as it is
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize(
    ("make", "matrices"), [(MODELS["functional"][0], 6), (lambda: in_another("causal_lm"), 2)]
)
def test_models_that_are_made_of_ours_stay_right(make, matrices, mode, tmp_path):
    model = make()
    before = np.asarray(model(IDS))
    model.quantize(mode)
    after = np.asarray(model(IDS))
    assert_near(after, before, mode, 2 * matrices)  # Keras rounds their inputs, too
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(IDS)), after)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_our_layers_in_a_functional_model_become_integers():
    model = MODELS["functional"][0]()
    model.quantize("int8")
    block = next(la for la in model.layers if isinstance(la, tfllm.layers.TransformerBlock))
    assert {v.dtype for v in block.weights if "kernel" in v.name and "scale" not in v.name} == {
        "int8"
    }


def test_a_language_model_inside_another_says_how_it_is_quantized():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        in_another("causal_lm").quantize("int8")
    told = [str(w.message) for w in found if "that model's quantize('int8')" in str(w.message)]
    assert any("token_embedding" in line for line in told) and len(told) == 5


def test_an_encoder_s_head_stays_in_floats():
    model = tfllm.SequenceClassifier(ENCODER, num_labels=3)
    model.quantize("int8")
    assert model.classifier.kernel.dtype == "float32"
    assert model.encoder.pooler.kernel.dtype == "float32"
    assert LABELS.shape == (4, T)
