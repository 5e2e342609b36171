"""Greedy decoding with SmolLM2-135M's dimensions: an exported model beside KerasHub's `generate`.

The exported model runs as TensorFlow Serving would run it, without XLA, tokenizer included;
KerasHub runs with XLA, its default. Weights are random: the speed does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras_hub
import numpy as np
import tensorflow as tf
from random_model import random_task
from side_by_side import interleaved, print_table

from tfllm.generation.options import option_values
from tfllm.models.presets import preset
from tfllm.serving.exporting import export
from tfllm.tasks.text_generation import OPTION_DTYPES
from tfllm.training.precision import choose_precision

PROMPT_TOKENS = 32


def exported(folder: str, dtype: str) -> object:
    task = random_task("smollm2-135m", dtype)
    path = export(task, os.path.join(folder, dtype))
    text = task.tokenizer.decode(
        task.tokenizer.encode("the people of these states " * 40)[:PROMPT_TOKENS]
    )
    loaded = tf.saved_model.load(str(path))

    def run(batch: int, new_tokens: int) -> None:
        values = {**option_values(task.generation), "max_new_tokens": new_tokens}
        options = {n: tf.fill([batch], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()}
        result = loaded.signatures["generate"](prompt=tf.fill([batch], text), **options)
        made = result["generated_tokens"].numpy()
        assert (made == new_tokens).all(), made  # random weights never choose the end token here

    run.loaded = loaded  # type: ignore[attr-defined]  # its variables go with it
    return run


def keras_hub_llama() -> object:
    config = preset("smollm2-135m")
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=config.vocab_size, num_layers=config.num_layers,
        num_query_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        hidden_dim=config.embedding_dim, intermediate_dim=config.feed_forward_dim,
        rope_max_wavelength=config.rope_theta,
    )  # fmt: skip
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")

    def run(batch: int, new_tokens: int) -> None:
        ids = np.full((batch, PROMPT_TOKENS + new_tokens), 7, "int32")
        mask = np.zeros_like(ids)
        mask[:, :PROMPT_TOKENS] = 1
        model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    table = [("decoding", "sequences", "tokens/s", "speed")]
    with tempfile.TemporaryDirectory() as folder:
        contestants = {"KerasHub LlamaCausalLM.generate, float32, XLA": keras_hub_llama()}
        for dtype in dict.fromkeys(["float32", choose_precision("auto")]):
            contestants[f"tfllm, exported, {dtype}, no XLA"] = exported(folder, dtype)
        for batch in (1, 8):
            runs = {
                name: lambda run=run, batch=batch: run(batch, options.new_tokens)
                for name, run in contestants.items()
            }
            seconds = interleaved(runs, options.rounds)
            base = next(iter(seconds.values()))
            for name, value in seconds.items():
                rate = batch * options.new_tokens / value
                table.append((name, str(batch), f"{rate:.1f}", f"{base / value:.2f}x"))
    print_table(f"Decoding, {PROMPT_TOKENS} tokens of prompt, {options.new_tokens} new", table)


if __name__ == "__main__":
    main()
