"""An int8 model is served with the kernels that were chosen, and answers as it does locally."""

import numpy as np
import pytest
import tensorflow as tf

from tests.generation.toy_text_models import task
from tfllm.config import GenerationConfig
from tfllm.generation.option_inputs import row_tensors
from tfllm.layers.integer_product import has_integer_kernel
from tfllm.serving import check, export
from tfllm.serving.saved_model.graph import SavedModelGraph

TEXTS = ["the cat sat on the mat", "on the", "x" * 40]

needs_kernel = pytest.mark.skipif(
    not has_integer_kernel(), reason="this TensorFlow has no kernel for products of integers"
)


def served_ops(folder):
    return {place.node.op for place in SavedModelGraph.read(folder).places if place.signatures}


@needs_kernel
@pytest.mark.parametrize("kernels", ["onednn", "portable"])
def test_an_int8_export_answers_as_the_local_model(kernels, tmp_path):
    local = task().with_dtype(f"int8_{kernels}")
    folder = export(task(), tmp_path / "m", dtype="int8", int8_kernels=kernels)
    assert ("_QuantizedMatMul" in served_ops(folder)) == (kernels == "onednn")
    report = check(folder)
    assert report.ok, report.format()
    assert ("onednn_op" in {finding.code for finding in report.findings}) == (kernels == "onednn")
    served = tf.saved_model.load(str(folder)).signatures["generate"]
    config = GenerationConfig(max_new_tokens=6, temperature=0.0)
    given = served(prompt=tf.constant(TEXTS), **row_tensors([config] * len(TEXTS)))
    expected = local.generate(TEXTS, max_new_tokens=6, temperature=0.0)
    assert [text.decode() for text in given["text"].numpy()] == list(expected)


@needs_kernel
@pytest.mark.parametrize("name", ["llama", "gpt2", "windows"])
def test_both_kernels_give_nearly_the_same_logits(rng, name):
    token_ids = rng.integers(0, 50, (2, 5)).astype(np.int32)
    logits = {}
    for policy in ("int8_float32", "int8_float32_onednn"):
        model = task(name).with_dtype(policy).model
        _, cache = model.hidden_states(token_ids, cache=model.empty_cache(2, 6))
        cache = cache._replace(next_index=tf.constant(5))
        hidden, _ = model.hidden_states(token_ids[:, :1], cache=cache)
        logits[policy] = model.logits(hidden[:, 0]).numpy()
    floats, integers = logits.values()
    # Activations of 14 bits: half a step is 6.1e-5 of a row's largest, in each of a few products.
    np.testing.assert_allclose(integers, floats, rtol=0, atol=1e-3 * np.abs(floats).max())
    assert np.any(integers != floats)


def test_kernels_are_for_int8(tmp_path):
    for dtype in ("float32", None):
        with pytest.raises(ValueError, match="int8_kernels is for dtype='int8'; received"):
            export(task(), tmp_path / "m", dtype=dtype, int8_kernels="portable")
    with pytest.raises(ValueError, match="one of auto, portable, onednn; received 'amx'"):
        export(task(), tmp_path / "m", dtype="int8", int8_kernels="amx")
    assert not (tmp_path / "m").exists()
