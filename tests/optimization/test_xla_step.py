"""The whole step compiled by XLA with static shapes, as a TPU requires; no TPU is needed."""

import re

import pytest
import tensorflow as tf

from tests.optimization import reference
from tests.rounding import assert_rounded
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.adamw import AdamW
from tfllm.training import strategy


def compiled(config, dtype, shards=False):
    model = CausalLM(config, seed=3, dtype=dtype)
    model.gradient_accumulation = 2
    model.detailed_logs = True
    model.compile(AdamW(3e-3, 0.1, beta_2=0.95, global_clipnorm=0.5, shards=shards))
    model.make_train_function()
    return model


def optimizer():
    return reference.NumpyAdamW(3e-3, epsilon=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "shards"), [("float32", False), ("float32", True), ("mixed_bfloat16", False)]
)
def test_the_whole_step_compiles_to_static_shapes_and_gives_the_same(
    dtype, shards, tiny_config, rng
):
    batches = reference.make_batches(rng, num=3)
    model = compiled(tiny_config, dtype, shards)
    signature = tuple(tf.TensorSpec(t.shape, t.dtype) for t in batches[0])
    step = tf.function(
        lambda *data: model.train_step(data), input_signature=signature, jit_compile=True
    )
    logs = []
    for batch in batches:
        data = tuple(map(tf.constant, batch))
        logs.append(step(*data))
    # The loop has neither XLA nor parts of a batch.
    other = reference.train(CausalLM(tiny_config, seed=3), batches, optimizer(), clip_norm=0.5)
    if dtype == "float32":
        assert_rounded([log["loss"] for log in logs], other.losses, other.additions)
        assert_rounded([log["gradient_norm"] for log in logs], other.norms, other.additions)
        other.assert_weights_of(model)
    else:
        bounds = reference.precision_bounds(
            lambda: CausalLM(tiny_config, seed=3), optimizer, batches, "bfloat16", clip_norm=0.5
        )
        bounds.assert_holds(model, logs, other)
    assert reference.largest_difference(model, compiled(tiny_config, dtype)) > 1e-3
    program = step.experimental_get_compiler_ir(*data)(stage="hlo")
    assert "f32[" in program
    assert not re.search(r"\[[^\]]*<=", program), "a dimension that is not static"


def test_a_tpu_that_is_not_there_is_an_error_that_says_what_to_do(monkeypatch):
    def none_there(*args, **kwargs):
        raise ValueError("Please provide a TPU Name to connect to.")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", none_there)
    with pytest.raises(RuntimeError, match=r"no TPU could be reached \(Please provide.*TPU_NAME"):
        strategy("tpu")
