"""Blocks as functions of a graph: the same results, in one function for all blocks alike."""

import gc

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import assert_within, weight_rounding
from tfllm.config import LoraConfig, ModelConfig
from tfllm.layers.integer_product import has_integer_kernel
from tfllm.models import block_functions
from tfllm.models.causal_lm import CausalLM
from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.encoder_decoder_config import EncoderDecoderConfig

pytestmark = pytest.mark.numeric

SIZE = {"vocab_size": 40, "embedding_dim": 16, "num_layers": 4, "num_heads": 4}
GPT2 = {"norm": "layer", "positions": "learned", "activation": "gelu", "gated": False}
CONFIGS = {
    "llama": {"num_kv_heads": 2},
    "gpt2": {**GPT2, "use_bias": True, "max_sequence_length": 20},
    "windows": {"sliding_window": 3, "max_sequence_length": 20},
}


def decoder(name="llama", **options):
    return CausalLM(ModelConfig(**SIZE, **CONFIGS[name]), seed=1, **options)


def prefill_and_step(model):
    """A function of token ids `[B, T]`: the states of all but the last, and of the last."""

    def run(token_ids):
        batch, time = token_ids.shape
        cache = model.empty_cache(batch, time)
        first, cache = model.hidden_states(token_ids[:, :-1], cache=cache)
        cache = cache._replace(next_index=tf.constant(time - 1))
        last, _ = model.hidden_states(token_ids[:, -1:], cache=cache)
        return tf.concat([first, last], 1)

    return run


def without_sharing(monkeypatch):
    monkeypatch.setattr("tfllm.models.blocks.can_share", lambda *given: False)


def functions_of(function, *given):
    """The functions in the graph of a `tf.function`, by name."""
    graph = function.get_concrete_function(*given).graph
    return {f.signature.name: f for f in graph.as_graph_def().library.function}


def named(functions, name):
    return [f for full, f in functions.items() if full.startswith(f"__inference_{name}_")]


@pytest.fixture
def token_ids(rng):
    return tf.constant(rng.integers(0, 40, (3, 7)), tf.int32)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_gives_the_same_with_and_without(name, large, token_ids, monkeypatch):
    monkeypatch.setattr(block_functions, "_LARGE", 0 if large else 10**9)
    model = decoder(name)
    run = prefill_and_step(model)
    shared = tf.function(run)
    given = shared(token_ids)
    kinds = 2 if name == "windows" and len(set(model._windows)) == 2 else 1
    heads = named(functions_of(shared, token_ids), "heads")
    assert len(heads) == 2 * kinds  # for many tokens and for one, whatever the number of blocks
    assert all(f.attr["_noinline"].b == large for f in heads)
    without_sharing(monkeypatch)
    direct = tf.function(run)
    assert not named(functions_of(direct, token_ids), "heads")
    bound = weight_rounding(model, lambda: direct(token_ids))
    assert_within(given, direct(token_ids), bound)


@pytest.mark.parametrize("large", [False, True])
def test_an_encoder_does(large, token_ids, monkeypatch):
    monkeypatch.setattr(block_functions, "_LARGE", 0 if large else 10**9)
    model = Encoder(EncoderConfig(**SIZE), seed=1)
    mask = tf.sequence_mask([7, 4, 1], 7)

    def run(token_ids):
        return model({"token_ids": token_ids, "padding_mask": mask})

    shared = tf.function(run)
    given = shared(token_ids)
    assert len(named(functions_of(shared, token_ids), "whole")) == 1
    without_sharing(monkeypatch)
    direct = tf.function(run)
    assert_within(given, direct(token_ids), weight_rounding(model, lambda: direct(token_ids)))


@pytest.mark.parametrize("large", [False, True])
def test_an_encoder_decoder_does(large, token_ids, monkeypatch):
    monkeypatch.setattr(block_functions, "_LARGE", 0 if large else 10**9)
    config = EncoderDecoderConfig(
        vocab_size=40,
        embedding_dim=16,
        num_heads=4,
        feed_forward_dim=24,
        num_layers=3,
        num_decoder_layers=3,
    )
    model = EncoderDecoder(config, seed=1)

    def run(token_ids):
        source = model.encoded_source(token_ids)
        caches = tuple(tf.zeros([2, 3, 4, 2, 4]) for _ in model.decoder.blocks)
        states = []
        for i in range(2):
            made, caches = model.next_states(
                token_ids[:, i : i + 1],
                source,
                caches,
                tf.constant(i),
                position=tf.constant(i),
                key_positions=tf.range(2),
                mask=tf.constant([[[[0.0, 0.0 if i else -1e9]]]]),
            )
            states.append(made)
        whole = model({"source_ids": token_ids, "token_ids": token_ids[:, :2]})
        return {"steps": tf.stack(states, 1), "whole": whole}

    shared = tf.function(run)
    given = shared(token_ids)
    assert named(functions_of(shared, token_ids), "after_heads")
    without_sharing(monkeypatch)
    direct = tf.function(run)
    expected, bounds = direct(token_ids), weight_rounding(model, lambda: direct(token_ids))
    for key, value in expected.items():
        assert_within(given[key], value, bounds[key], key)


def test_the_graph_does_not_grow_with_the_blocks_operations(token_ids):
    sizes = []
    for num_layers in (2, 6):
        model = CausalLM(ModelConfig(**{**SIZE, "num_layers": num_layers}), seed=1)
        functions = functions_of(tf.function(prefill_and_step(model)), token_ids)
        sizes.append(sum(len(f.node_def) for f in functions.values()))
    assert sizes[0] == sizes[1]


def test_the_cache_is_written_outside_of_functions_that_would_copy_it(token_ids):
    functions = functions_of(tf.function(prefill_and_step(decoder())), token_ids)
    for function in functions.values():
        assert not any(node.op == "TensorStridedSliceUpdate" for node in function.node_def)


def test_weights_are_those_of_the_call(token_ids):
    model, other = decoder(), decoder("llama")
    shared = tf.function(prefill_and_step(model))
    before = shared(token_ids)
    for weight in model.weights:
        weight.assign(weight + 0.1)
    for mine, theirs in zip(other.weights, model.weights, strict=True):
        mine.assign(theirs)
    np.testing.assert_array_equal(
        shared(token_ids), tf.function(prefill_and_step(other))(token_ids)
    )
    assert np.abs(shared(token_ids) - before).max() > 1e-3


def test_a_model_that_is_quantized_in_place_is_followed(token_ids):
    model = decoder()
    tf.function(prefill_and_step(model))(token_ids)
    model.quantize("int8")
    given = tf.function(prefill_and_step(model))(token_ids)
    bound = 10 * weight_rounding(decoder(), lambda: prefill_and_step(model)(token_ids)) + 1e-5
    assert_within(given, prefill_and_step(model)(token_ids), bound)


def test_gradients_flow_to_inputs_and_weights(token_ids, monkeypatch):
    model = decoder()
    kernel = model.blocks[2].feed_forward.inner.kernel.value

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(token_ids, training=False) ** 2)
        return tape.gradient(loss, [kernel, model.token_embedding.embeddings.value])

    shared = [tf.convert_to_tensor(g) for g in gradient()]
    assert len(named(functions_of(gradient), "whole")) == 1
    without_sharing(monkeypatch)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(token_ids, training=False) ** 2)
    expected = tape.gradient(loss, [kernel, model.token_embedding.embeddings.value])
    for mine, theirs in zip(shared, expected, strict=True):
        theirs = tf.convert_to_tensor(theirs)
        assert_within(mine, theirs, 1e-4 * np.abs(theirs).max())


def test_adapters_keep_blocks_apart(token_ids):
    model = decoder()
    model.add_adapter(LoraConfig(rank=2), "a")
    shared = tf.function(prefill_and_step(model))
    shared(token_ids)
    assert not named(functions_of(shared, token_ids), "heads")


def test_training_does_not_use_them(token_ids):
    model = decoder()
    train = tf.function(lambda x: model(x, training=True))
    assert not named(functions_of(train, token_ids), "whole")


def test_it_compiles_with_xla(token_ids):
    model = decoder()
    run = prefill_and_step(model)
    bound = weight_rounding(model, lambda: run(token_ids))
    assert_within(tf.function(run, jit_compile=True)(token_ids), run(token_ids), bound)


def test_functions_are_forgotten_with_their_model(token_ids):
    gc.collect()
    before = len(block_functions._FUNCTIONS)
    model = decoder()
    tf.function(prefill_and_step(model))(token_ids)
    assert len(block_functions._FUNCTIONS) == before + 1
    del model
    gc.collect()
    assert len(block_functions._FUNCTIONS) <= before


@pytest.mark.skipif(not has_integer_kernel(), reason="needs the kernel")
def test_large_blocks_that_only_cpus_run_are_executed_in_order(token_ids, monkeypatch):
    monkeypatch.setattr(block_functions, "_LARGE", 0)
    executors = {}
    for policy in ("float32", "int8_float32", "int8_float32_onednn"):
        model = decoder().with_dtype(policy)
        graph = tf.function(prefill_and_step(model)).get_concrete_function(token_ids).graph
        calls = [op for op in graph.get_operations() if "PartitionedCall" in op.type]
        executors[policy] = {op.get_attr("executor_type") for op in calls}
    assert executors == {
        "float32": {b""},
        "int8_float32": {b""},
        "int8_float32_onednn": {b"SINGLE_THREADED_EXECUTOR"},
    }
