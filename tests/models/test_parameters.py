"""Exact numbers of parameters, without allocating them."""

import json
import subprocess
import sys
import textwrap

import pytest

from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.parameter_count import num_parameters
from tfllm.models.sizes import size
from tfllm.models.sizes.decoders import DECODER_SIZES

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_abstract_models_have_the_published_number_of_parameters(name):
    assert CausalLM.abstract(size(name)).count_params() == PUBLISHED[name]


@pytest.mark.parametrize("name", DECODER_SIZES)
def test_the_closed_formula_counts_what_is_built(name):
    config = size(name)
    if num_parameters(config) > 3e9 and name not in PUBLISHED:
        pytest.skip("large, and like its neighbours")
    assert num_parameters(config) == CausalLM.abstract(config).count_params()


def test_abstract_is_the_real_models_shape(tiny_config):
    abstract, real = CausalLM.abstract(tiny_config), CausalLM(tiny_config)
    assert [(v.path.split("/", 1)[1], v.shape, v.dtype) for v in abstract.weights] == [
        (v.path.split("/", 1)[1], v.shape, v.dtype) for v in real.weights
    ]


MEASURE = """
    import json, time
    import keras
    from tfllm.config import ModelConfig
    from tfllm.models.causal_lm import CausalLM

    begin = time.perf_counter()
    config = ModelConfig(
        vocab_size=128256, embedding_dim=8192, num_layers=80, num_heads=64, num_kv_heads=8,
        feed_forward_dim=28672, tied_embeddings=False,
    )
    model = CausalLM.abstract(config)
    seconds = time.perf_counter() - begin
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Dense(3)(x))  # Keras now fills in variables it knows of
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**20
    print(json.dumps([model.count_params(), seconds, peak]))
"""


@pytest.mark.alone
def test_seventy_billion_parameters_take_no_memory():
    command = [sys.executable, "-c", textwrap.dedent(MEASURE)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    count, seconds, gibibytes = json.loads(result.stdout)
    assert count == 70_553_706_496
    assert seconds < 20  # about 1.5 on a machine with nothing else to do
    assert gibibytes < 1


def test_configs_of_every_kind_count_alike():
    for options in (
        {"use_bias": True, "norm": "layer", "positions": "learned", "gated": False},
        {"norm_first": False, "head_dim": 24, "num_kv_heads": 1},
        {"positions": "sinusoidal", "tied_embeddings": False},
    ):
        config = ModelConfig(vocab_size=50, embedding_dim=32, num_layers=2, num_heads=4, **options)
        assert num_parameters(config) == CausalLM(config).count_params()
