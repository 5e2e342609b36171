"""The count of floating-point operations, by hand and from the graph."""

import tensorflow as tf

from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.training.flops import flops_per_token

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


def test_the_products_in_the_graph_are_as_many():
    model = CausalLM(CONFIG)
    graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([1, 16], tf.int32))
    total = 0
    for op in graph.graph.get_operations():
        if op.type == "MatMul":
            inner = op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]
        elif op.type.startswith("BatchMatMul"):
            inner = op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1]
        elif op.type == "Einsum":
            raise AssertionError("count Einsum, too")
        else:
            continue
        total += 2 * inner * op.outputs[0].shape.num_elements()
    assert total == 16 * flops_per_token(CONFIG, 16, training=False)
