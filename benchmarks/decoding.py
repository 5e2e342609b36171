"""Greedy decoding of SmolLM2-135M: the exported model compared with KerasHub and `transformers`.

The exported model runs as TensorFlow Serving would run it, without XLA and including the tokenizer;
KerasHub runs with XLA, its default, and `transformers` on PyTorch in a separate environment
(`--torch PYTHON`; this project requires neither). The peers have random weights of the same shapes,
on which the speed does not depend.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras_hub
import numpy as np
from exported_model import exported
from side_by_side import interleaved, print_table
from smollm2 import smollm2

from tfllm.models.sizes import size
from tfllm.optimization.precision import choose_precision
from tfllm.tasks.language_model.text_generation import TextGeneration

PROMPT_TOKENS = 32


def tfllm_model(folder: str, dtype: str) -> Callable[[int, int], None]:
    task = TextGeneration.load(smollm2(), dtype=dtype)
    prompt = task.tokenizer.encode("the people of these states " * 40)[:PROMPT_TOKENS]
    return exported(task, os.path.join(folder, dtype), task.tokenizer.decode(prompt))


def keras_hub_llama() -> Callable[[int, int], None]:
    config = size("smollm2-135m")
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


@contextlib.contextmanager
def torch_llama(python: Path, dtype: str) -> Iterator[Callable[[int, int], None]]:
    config = size("smollm2-135m")
    settings = {
        "vocab_size": config.vocab_size, "hidden_size": config.embedding_dim,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "intermediate_size": config.feed_forward_dim,
        "max_position_embeddings": config.max_sequence_length, "tie_word_embeddings": True,
    }  # fmt: skip
    script = Path(__file__).with_name("torch_decoding.py")
    with subprocess.Popen(
        [python, script, json.dumps(settings), dtype],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as peer:  # fmt: skip
        assert peer.stdin is not None and peer.stdout is not None
        if peer.stdout.readline() != "ready\n":
            raise RuntimeError(f"{python} must have torch and transformers; it did not start")

        def run(batch: int, new_tokens: int) -> None:
            peer.stdin.write(json.dumps([batch, PROMPT_TOKENS, new_tokens]) + "\n")
            peer.stdin.flush()
            assert int(peer.stdout.readline()) == new_tokens

        yield run
        peer.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers")
    options = parser.parse_args()
    title = f"greedy decoding, SmolLM2-135M, {PROMPT_TOKENS} + {options.new_tokens} tokens"
    table = [(title, "sequences", "tokens/s", "compared with KerasHub")]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        contestants = {"KerasHub LlamaCausalLM.generate, float32, XLA": keras_hub_llama()}
        if options.torch:
            for dtype in ("float32", "bfloat16"):
                peer = stack.enter_context(torch_llama(options.torch, dtype))
                contestants[f"transformers on PyTorch, {dtype}"] = peer
        for dtype in dict.fromkeys(["float32", choose_precision("auto"), "int8"]):
            contestants[f"tfllm, exported, {dtype}, no XLA"] = tfllm_model(folder, dtype)
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
