"""A training step of `model.fit` compared with KerasHub's GPT-2 and with the matmul peak.

6 layers, width 384, 6 heads, 8 rows of 256 tokens, vocabulary 8,192: 184 GFLOP per step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from side_by_side import print_table

from tfllm.config import ModelConfig
from tfllm.models.causal_lm import CausalLM
from tfllm.models.flops import flops_per_token
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.precision import choose_precision, dtype_policy, matmul_peak

VOCAB, WIDTH, LAYERS, HEADS, ROWS, TIME = 8192, 384, 6, 6, 8, 256
SHAPE = {"vocab_size": VOCAB, "embedding_dim": WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
GPT2 = ModelConfig(
    **SHAPE, max_sequence_length=TIME, positions="learned", norm="layer", activation="gelu_tanh",
    gated=False, use_bias=True,
)  # fmt: skip


def ours(precision: str) -> tuple[CausalLM, tf.data.Dataset]:
    model = CausalLM(GPT2, dtype=dtype_policy(precision))
    model.compile(AdamW(1e-3, 0.1, global_clipnorm=1.0))
    ids = np.random.default_rng(0).integers(0, VOCAB, (ROWS, TIME + 1)).astype("int32")
    return model, tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat()


def keras_hub_gpt2() -> tuple[keras.Model, tf.data.Dataset]:
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCAB, num_layers=LAYERS, num_heads=HEADS, hidden_dim=WIDTH,
        intermediate_dim=4 * WIDTH, max_sequence_length=TIME, dropout=0.0,
    )  # fmt: skip
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # with XLA it is slower on a CPU
    )
    ids = np.random.default_rng(0).integers(0, VOCAB, (ROWS, TIME + 1)).astype("int32")
    x = {"token_ids": ids[:, :-1], "padding_mask": np.ones((ROWS, TIME), bool)}
    return model, tf.data.Dataset.from_tensors((x, ids[:, 1:])).repeat()


class StepTimer(keras.callbacks.Callback):
    """Seconds of each step of `fit`, except the first ones of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        now = time.perf_counter()
        if batch > 1:  # the first ones start the input
            self.seconds.append(now - self._last)
        self._last = now

    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of each in a round")
    options = parser.parse_args()
    precision = choose_precision("auto")
    contestants = {"KerasHub GPT2CausalLM.fit, float32": keras_hub_gpt2()}
    for name in dict.fromkeys(["float32", precision]):
        contestants[f"tfllm CausalLM.fit, {name}"] = ours(name)
    timers = {name: StepTimer() for name in contestants}
    peaks: dict[str, list[float]] = {"float32": [], precision: []}
    for _ in range(options.rounds):
        for name, (model, rows) in contestants.items():
            model.fit(
                rows, steps_per_epoch=options.steps, epochs=1, verbose=0, shuffle=False,
                callbacks=[timers[name]],
            )  # fmt: skip
        for name, values in peaks.items():  # measured in between, since the machine's speed drifts
            matmul_peak.cache_clear()
            values.append(matmul_peak(name))
    seconds = {name: timer.median() for name, timer in timers.items()}
    flops = flops_per_token(GPT2, TIME) * ROWS * TIME
    base = next(iter(seconds.values()))
    title = f"training step, {LAYERS} layers x {WIDTH}, {ROWS} x {TIME} tokens"
    table = [(title, "ms", "compared with KerasHub", "share of the matmul peak")]
    for name in contestants:
        used = name.rpartition(" ")[2]
        rate = flops / seconds[name]
        best = float(np.median(peaks[used]))
        table.append(
            (
                name,
                f"{1000 * seconds[name]:,.0f}",
                f"{base / seconds[name]:.2f}x",
                f"{rate / best:.0%} of {best / 1e9:,.0f} GFLOP/s",
            )
        )
    print_table(f"Training step ({flops / 1e9:.0f} GFLOP)", table)


if __name__ == "__main__":
    main()
