"""A LoRA step on SmolLM2-135M, 8 x 512 tokens, rank 8, compared with KerasHub's `enable_lora`.

Each variant runs in a process of its own, in turn, and reports its tokens/s and its peak memory.
The base model's weights are random; neither figure depends on them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from side_by_side import print_table

ROWS, TIME, RANK = 8, 512, 8


def _peak_mib() -> float:
    # Not getrusage, whose maximum is inherited from the parent process.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def ours(dtype: str) -> tuple[Any, Any, Any]:
    from tfllm.config import LoraConfig
    from tfllm.models.causal_lm import CausalLM
    from tfllm.models.sizes import size
    from tfllm.optimization.adamw import AdamW

    config = size("smollm2-135m")
    model = CausalLM(config, dtype=dtype)
    model.add_adapter(LoraConfig(rank=RANK, alpha=2 * RANK, targets="all"))
    model.compile(AdamW(2e-4, 0.0, global_clipnorm=1.0))
    ids = _ids(config.vocab_size)
    return model, ids[:, :-1], ids[:, 1:]


def keras_hub(dtype: str) -> tuple[Any, Any, Any]:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import keras_hub
    import numpy as np

    from tfllm.models.sizes import size

    config = size("smollm2-135m")
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=config.vocab_size, num_layers=config.num_layers,
        num_query_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
        hidden_dim=config.embedding_dim, intermediate_dim=config.feed_forward_dim,
        rope_max_wavelength=config.rope_theta, tie_word_embeddings=True, dtype=dtype,
    )  # fmt: skip
    backbone.enable_lora(RANK)  # for the query and value projections
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-4, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # with XLA it is slower on a CPU
    )
    ids = _ids(config.vocab_size)
    x = {"token_ids": ids[:, :-1], "padding_mask": np.ones((ROWS, TIME), bool)}
    return model, x, ids[:, 1:]


def _ids(vocab_size: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, TIME + 1)).astype("int32")


def measure(kind: str, dtype: str, steps: int) -> dict[str, float]:
    import keras
    import tensorflow as tf

    model, x, y = (ours if kind == "tfllm" else keras_hub)(dtype)
    rows = tf.data.Dataset.from_tensors((x, y)).repeat()
    seconds: list[float] = []

    class Timer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            seconds.append(time.perf_counter() - self.start)

    model.fit(rows, steps_per_epoch=steps + 1, verbose=0, shuffle=False, callbacks=[Timer()])
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return {
        "seconds": statistics.median(seconds[1:]), "mebibytes": _peak_mib(), "trained": trained,
    }  # fmt: skip


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.steps)))
        return
    contestants = {
        "KerasHub enable_lora + fit, float32": ("keras_hub", "float32"),
        "KerasHub enable_lora + fit, mixed bfloat16": ("keras_hub", "mixed_bfloat16"),
        "tfllm, all projections, float32": ("tfllm", "float32"),
        "tfllm, all projections, bfloat16 base": ("tfllm", "bfloat16"),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, (kind, dtype) in contestants.items():
            command = [sys.executable, __file__, "--measure", kind, dtype]
            command += ["--steps", str(options.steps)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(output.stdout.splitlines()[-1]))
    middle = {
        name: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for name, results in found.items()
    }
    base = next(iter(middle.values()))
    title = f"LoRA step, SmolLM2-135M, {ROWS} x {TIME} tokens, rank {RANK}"
    compared = "compared with KerasHub"
    table = [(title, "trained", "tokens/s", compared, "peak memory", compared)]
    for name, value in middle.items():
        table.append(
            (
                name,
                f"{value['trained'] / 1e6:.2f}M",
                f"{ROWS * TIME / value['seconds']:,.0f}",
                f"{base['seconds'] / value['seconds']:.2f}x",
                f"{value['mebibytes']:,.0f} MiB",
                f"{value['mebibytes'] / base['mebibytes']:.2f}x",
            )
        )
    print_table("LoRA on SmolLM2-135M", table)


if __name__ == "__main__":
    main()
