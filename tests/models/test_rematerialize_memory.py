"""Recomputed blocks need less memory at the peak of a training step."""

import subprocess
import sys
import textwrap

import pytest

MEASURE = """
    import sys
    import numpy as np
    from tfllm.config import ModelConfig
    from tfllm.models.causal_lm import CausalLM
    config = ModelConfig(
        vocab_size=256, embedding_dim=128, num_layers=10, num_heads=4, max_sequence_length=256
    )
    model = CausalLM(config, rematerialize=sys.argv[1] == "True")
    model.compile("sgd")
    x = np.zeros((16, 256), "int32")
    before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    for _ in range(2):
        model.train_on_batch(x, x)
    print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) - before)
"""


@pytest.mark.slow
def test_peak_memory_falls_to_less_than_half():
    peaks = {}
    for rematerialize in (False, True):
        command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(rematerialize)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[rematerialize] = int(result.stdout) / 1024
    print(f"MiB above the base, without and with: {peaks}")
    assert peaks[True] < 0.45 * peaks[False]
