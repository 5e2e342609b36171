"""The number of floating-point operations, compared with manual counts and the graph."""

import dataclasses

import tensorflow as tf

from tfllm.config import LoraConfig, ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.flops import flops_per_token

CONFIG = ModelConfig(
    vocab_size=50,
    embedding_dim=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    feed_forward_dim=24,
    max_sequence_length=16,
)


def test_a_hand_count():
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8  # queries, keys and values, output
    feed_forward = 3 * 8 * 24
    weights = 2 * (attention + feed_forward) + 50 * 8
    scores_and_sums = 2 * 2 * (2 * 16 * 8)  # layers x two products of 16 positions, width 8
    forward = 2 * weights + scores_and_sums
    assert flops_per_token(CONFIG, 16, training=False) == forward
    assert flops_per_token(CONFIG, 16) == 3 * forward


def products(outputs, without=()):
    """Operations of the products that the outputs need, but for those with a size of `without`."""
    total, seen, left = 0, set(), [tensor.op for tensor in outputs]
    while left:
        op = left.pop()
        if op in seen:
            continue
        seen.add(op)
        left += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
        if op.type == "MatMul":
            inner = op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]
        elif op.type.startswith("BatchMatMul"):
            inner = op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1]
        elif op.type in ("Einsum", "While"):
            raise AssertionError(f"count {op.type}, too")
        else:
            continue
        if not {inner, *op.outputs[0].shape} & set(without):
            total += 2 * inner * op.outputs[0].shape.num_elements()
    return total


def test_the_products_in_the_graph_are_as_many():
    model = CausalLM(CONFIG)
    # The graph for training, without dropout, since that for inference has a block's products once.
    run = tf.function(lambda x: model(x, training=True))
    graph = run.get_concrete_function(tf.TensorSpec([1, 16], tf.int32))
    assert products(graph.outputs) == 16 * flops_per_token(CONFIG, 16, training=False)


def step_products(model, **options):
    """Operations of a step's forward and backward products, as `TrainingStep` computes them."""

    def step(x, y):
        variables = [v.value for v in model.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss, _ = model.loss_sums(x, y, tf.ones([1, 16]), training=True)
        gradients = tape.gradient(loss, variables)
        return loss, [tf.convert_to_tensor(g) for g in gradients]

    spec = tf.TensorSpec([1, 16], tf.int32)
    return products(tf.function(step).get_concrete_function(spec, spec).outputs, **options)


def test_a_step_computes_nothing_for_frozen_weights():
    whole = step_products(CausalLM(CONFIG))
    assert whole == 16 * flops_per_token(CONFIG, 16)
    adapted = CausalLM(CONFIG)
    adapted.add_adapter(LoraConfig(rank=7))
    found = step_products(adapted, without=(7, 14, 21))  # the adapter's own: one, two, three parts
    assert found == 16 * flops_per_token(CONFIG, 16, trained="lora")
    for tied in (True, False):
        config = dataclasses.replace(CONFIG, tied_embeddings=tied)
        top = CausalLM(config)
        top.train_top(1)
        found = step_products(top)
        assert found == 16 * flops_per_token(config, 16, trained="top", top_layers=1)
        assert found < 0.75 * whole
