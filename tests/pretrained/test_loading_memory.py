"""Loading needs little more memory than the model, whatever the format and the precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.pretrained.conftest import REFERENCES
from tests.pretrained.gguf_files import write_gguf
from tfllm import pretrained
from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM

SIZES = {"vocab_size": 16_000, "embedding_dim": 512, "num_layers": 14, "num_heads": 8}
ROOT = Path(__file__).parents[2]


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are Linux's")
def test_peak_memory_is_at_most_1_3_times_the_model(tmp_path):
    llama = CausalLM(ModelConfig(**SIZES, feed_forward_dim=2048, max_sequence_length=64))
    llama_in_shards = tmp_path / "llama"
    pretrained.save(llama, llama_in_shards, max_shard_bytes=30_000_000)
    assert len(list(llama_in_shards.glob("*.safetensors"))) > 3
    pretrained.save(llama, tmp_path / "llama_bfloat16", dtype="bfloat16")
    gpt2 = CausalLM(
        ModelConfig(
            **SIZES,
            positions="learned",
            norm="layer",
            gated=False,
            activation="gelu_tanh",
            use_bias=True,
            max_sequence_length=64,
        )
    )
    pretrained.save(gpt2, tmp_path / "gpt2")  # its matrices are stored transposed
    assert min(model.count_params() for model in (llama, gpt2)) * 4 > 100_000_000
    pairs = [
        (llama_in_shards, "float32"),
        (tmp_path / "llama_bfloat16", "bfloat16"),
        (tmp_path / "gpt2", "float32"),
        (write_gguf(llama_in_shards, tmp_path / "llama.gguf", "Q8_0"), "float32"),
        (tmp_path / "llama.gguf", "bfloat16"),
    ]
    arguments = [str(value) for pair in pairs for value in pair]
    result = subprocess.run(
        [sys.executable, "-m", "tests.pretrained.loading_memory", REFERENCES / "gpt2", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    ratios = json.loads(result.stdout.splitlines()[-1])
    assert len(ratios) == len(pairs)
    assert all(0.7 < ratio <= 1.3 for ratio in ratios), ratios


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_reading_a_loaded_weight_copies_nothing(dtype):
    """TensorFlow copies a variable at every read once a slice of it was assigned."""
    model = pretrained.load(REFERENCES / "gpt2", dtype=dtype).model
    for weight in model.weights:
        handle, kind = weight.value.handle, weight.value.dtype
        # `numpy()` would copy, too.
        reads = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind)._numpy() for _ in range(2)]
        assert reads[0].ctypes.data == reads[1].ctypes.data, weight.path
