"""Train a model for two steps and print the peak memory of the process, in bytes.

python -m tests.training.measured_memory '{"model": {...}, "training": {...}}'
"""

import json
import sys

import numpy as np
import tensorflow as tf

from tfllm.config import ModelConfig, TrainingConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.optimization.precision import dtype_policy
from tfllm.serving.checks.session_process import peak_memory
from tfllm.training.compiling import compile_for_run


def main(model_settings, training_settings):
    training = TrainingConfig(**training_settings).resolved(
        pretrained=training_settings.get("trainable") == "lora"
    )
    model = CausalLM(
        ModelConfig(**model_settings),
        seed=0,
        rematerialize=training.rematerialize,
        dtype=dtype_policy(training.precision),
    )
    if training.trainable == "lora":
        model.add_adapter(training.lora())
    compile_for_run(model, training, 10)
    shape = (training.batch_size, training.sequence_length)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, shape).astype(np.int32)
    segments = np.broadcast_to(np.arange(shape[1], dtype=np.int32) * 3 // shape[1], shape)
    row = ({"token_ids": ids, "segment_ids": segments}, np.roll(ids, -1, 1), np.ones(shape, "f4"))
    rows = tf.data.Dataset.from_tensors(row).repeat()
    model.fit(rows, steps_per_epoch=2, verbose=0)
    print(peak_memory())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(given["model"], given["training"])
