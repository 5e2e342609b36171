"""Models with int8 matrices: loaded, used, trained with adapters and served."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.generation.toy_text_models import CONFIGS, task
from tests.pretrained.conftest import REFERENCES
from tests.pretrained.gguf_files import write_gguf
from tests.rounding import assert_within, rounding, weight_rounding
from tfllm import pretrained
from tfllm.config import LoraConfig
from tfllm.layers.quantized import quantize_rows
from tfllm.models.causal_lm import CausalLM
from tfllm.pretrained import tensor_source
from tfllm.pretrained.fingerprint import fingerprint, same_weights
from tfllm.serving import check, export
from tfllm.tasks import TextGeneration

# Tied and not, transposed matrices in the file, several files in bfloat16, normed heads, windows.
NAMES = ["llama_tied", "llama_untied", "llama_sharded", "gpt2", "qwen3", "mistral"]


def places(model):
    return {weight.path.partition("/")[2]: weight for weight in model.weights}


@functools.cache
def of_folder(name):
    return pretrained.load(REFERENCES / name).model


@functools.cache
def of_integers(name):
    return pretrained.load(REFERENCES / name, dtype="int8_float32").model


def token_ids(name):
    return np.load(REFERENCES / name / "reference.npz")["token_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_is_the_one_of_the_file_rounded_row_by_row(name, monkeypatch):
    monkeypatch.setattr(tensor_source, "_CHUNK_ELEMENTS", 100)  # three rows at a time, or so
    given, whole = places(of_integers(name)), places(of_folder(name))
    matrices = {place for place, weight in given.items() if weight.dtype == "int8"}
    blocks = of_folder(name).config.num_layers
    untied = not of_folder(name).config.tied_embeddings
    assert len(matrices) == 4 * blocks + 1 + untied
    for place in whole:
        if place in matrices:
            integers, scale = quantize_rows(whole[place])
            np.testing.assert_array_equal(given[place].numpy(), integers)
            np.testing.assert_array_equal(given[place + "_scale"].numpy(), scale)
        else:
            np.testing.assert_array_equal(given[place].numpy(), whole[place].numpy())


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_with_what_the_integers_stand_for(name):
    model, ids = of_integers(name), token_ids(name)
    floats = model.with_dtype("float32")
    assert {weight.dtype for weight in floats.weights} == {"float32"}
    logits = floats(ids).numpy()
    assert_within(model(ids), logits, weight_rounding(floats, lambda: floats(ids)))
    # The rounding itself is small beside the logits, and not nothing.
    exact = np.load(REFERENCES / name / "reference.npz")["logits"]
    assert 1e-4 < np.sqrt(np.mean((logits - exact) ** 2)) < 0.1 * exact.std()


def test_every_way_to_integers_gives_the_same(tmp_path):
    path = write_gguf(REFERENCES / "llama_tied", tmp_path / "model.gguf")
    ways = [
        of_integers("llama_tied"),
        of_folder("llama_tied").with_dtype("int8_float32"),
        pretrained.load(path, dtype="int8_float32").model,
        of_integers("llama_tied").with_dtype("int8_bfloat16").with_dtype("int8_float32"),
    ]
    for other in ways[1:3]:
        for place, weight in places(ways[0]).items():
            np.testing.assert_array_equal(places(other)[place].numpy(), weight.numpy())
    assert pretrained.load(path, dtype="int8").model.compute_dtype in ("float32", "bfloat16")


def test_bfloat16_products_are_near():
    model, ids = of_integers("qwen3"), token_ids("qwen3")
    half = model.with_dtype("int8_bfloat16")
    assert half.compute_dtype == "bfloat16"
    assert {w.dtype for w in half.weights} == {"int8", "float32"}
    floats = model.with_dtype("float32")
    assert_within(half(ids), model(ids), weight_rounding(floats, lambda: floats(ids), "bfloat16"))


def test_it_is_not_saved_as_a_folder_but_as_a_keras_file(tmp_path):
    model = of_integers("llama_tied")
    with pytest.raises(ValueError, match=r"cannot hold int8 weights.*with_dtype\('float32'\)"):
        pretrained.save(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    pretrained.save(model.with_dtype("float32"), tmp_path / "folder")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == "int8_float32"
    ids = token_ids("llama_tied")
    np.testing.assert_array_equal(again(ids), model(ids))


@pytest.mark.parametrize("rematerialize", [False, True])
def test_an_adapter_learns_on_frozen_integers(rematerialize):
    name = "llama_untied"
    model = pretrained.load(
        REFERENCES / name, dtype="int8_float32", rematerialize=rematerialize
    ).model
    model.add_adapter(LoraConfig(rank=2))
    floats = pretrained.load(REFERENCES / name).model
    for place, weight in places(of_integers(name).with_dtype("float32")).items():
        places(floats)[place].assign(weight)
    floats.add_adapter(LoraConfig(rank=2))
    for weight in floats.trainable_weights:  # the adapter, which begins alike
        place = weight.path.partition("/")[2]
        np.testing.assert_array_equal(places(model)[place].numpy(), weight.numpy())
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)
    before = {place: weight.numpy() for place, weight in places(model).items()}
    ids = token_ids(name)
    losses = []
    for m in (model, floats):
        m.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        history = m.fit(ids[:, :-1], ids[:, 1:], batch_size=2, epochs=5, verbose=0).history
        losses.append(history["loss"])
    assert losses[0][-1] < 0.95 * losses[0][0]

    def loss():
        logits = tf.cast(floats(ids[:, :-1]), tf.float64)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits)
        return tf.reduce_mean(cross_entropy)

    # Adam makes whole steps of what rounding makes of a small gradient, but of weights on which the
    # loss depends as little. The loss is itself a sum over rows and batches.
    bound = weight_rounding(floats, loss) + rounding(len(ids), losses[1])
    assert_within(losses[0], losses[1], bound)
    trained = {weight.path.partition("/")[2] for weight in model.trainable_weights}
    for place, weight in places(model).items():
        assert np.array_equal(weight.numpy(), before[place]) == (place not in trained), place


def test_an_adapter_is_merged_into_floats_alone():
    model = pretrained.load(REFERENCES / "gpt2", dtype="int8_float32").model
    model.add_adapter(LoraConfig(rank=2))
    for weight in model.trainable_weights:
        weight.assign(keras.random.normal(weight.shape, 0, 0.1, seed=3))
    with pytest.raises(ValueError, match=r"these are int8\. Load the base model with"):
        model.merge_adapter()
    ids = token_ids("gpt2")
    merged = model.with_dtype("float32")
    assert_within(merged(ids), model(ids), weight_rounding(merged, lambda: merged(ids)))
    assert np.abs(merged(ids) - of_integers("gpt2")(ids)).max() > 0.1


def test_an_adapter_knows_its_base_by_the_norms():
    assert same_weights(fingerprint(of_integers("qwen3")), fingerprint(of_folder("qwen3")))
    assert not same_weights(fingerprint(of_integers("qwen3")), fingerprint(of_folder("mistral")))


def wide():
    return CausalLM(
        dataclasses.replace(CONFIGS["llama"], embedding_dim=256, head_dim=64, feed_forward_dim=704)
    )


def largest_constant(saved_model):
    """In bytes."""
    (meta,) = saved_model_pb2.SavedModel.FromString(saved_model.read_bytes()).meta_graphs
    nodes = [*meta.graph_def.node]
    nodes += [node for f in meta.graph_def.library.function for node in f.node_def]
    return max(node.attr["value"].tensor.ByteSize() for node in nodes if node.op == "Const")


@pytest.mark.slow
def test_the_export_has_less_than_0_3_of_the_size_and_passes_the_check(tmp_path):
    served = TextGeneration(wide(), task().tokenizer, task().generation)
    folder = export(served, tmp_path / "int8", dtype="int8")
    of_floats = sum(weight.numpy().nbytes for weight in served.model.weights)
    assert sum(path.stat().st_size for path in folder.rglob("variables/*")) < 0.3 * of_floats
    report = check(tmp_path / "int8", run=False)
    assert report.ok, report.format()
    assert largest_constant(folder / "saved_model.pb") < 10_000  # no weight is one
    names = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    assert tf.int8 in names.get_variable_to_dtype_map().values()


@pytest.mark.slow
def test_what_is_served_is_what_is_computed_here(tmp_path):
    served = TextGeneration(wide(), task().tokenizer, task().generation)
    folder = export(served, tmp_path / "int8", dtype="int8")
    report = check(tmp_path / "int8")  # without XLA
    assert report.ok and report.requests, report.format()
    loaded = tf.saved_model.load(str(folder))
    given = loaded.signatures["serving_default"](prompt=tf.constant(["Once"]))
    local = served.with_dtype("int8")
    assert given["text"][0].numpy().decode() == local.generate("Once")
    assert local.with_dtype("int8") is local
    assert local.with_dtype("float32").decoder.dtype == "float32"
