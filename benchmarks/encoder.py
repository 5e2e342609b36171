"""MiniLM's encoder (6 layers, width 384, 12 heads): inference and a fine-tuning step.

Inference, on 32 rows of 128 tokens that are between half and fully filled, is compared with
`transformers` on PyTorch in a separate environment (`--torch PYTHON`; this project does not require
it). Fine-tuning of a classifier, through `fit`, is compared with KerasHub's `BertTextClassifier`.
The weights are random; the speed does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from side_by_side import interleaved, print_table
from training_step import StepTimer

from tfllm.models.encoder import Encoder
from tfllm.models.encoder_config import EncoderConfig
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.optimization.adamw import AdamW
from tfllm.optimization.precision import choose_precision, dtype_policy

ROWS, TIME, LABELS = 32, 128, 2
MINILM = EncoderConfig(vocab_size=30_522, embedding_dim=384, num_layers=6, num_heads=12)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.linspace(TIME // 2, TIME, ROWS)
    return {
        "token_ids": rng.integers(0, MINILM.vocab_size, (ROWS, TIME)).astype(np.int32),
        "padding_mask": np.arange(TIME) < lengths[:, np.newaxis],
    }


def encoder(dtype: str) -> Callable[[], object]:
    model = Encoder(MINILM, dtype=dtype)
    signature = {
        "token_ids": tf.TensorSpec([None, None], tf.int32),  # as in a served function
        "padding_mask": tf.TensorSpec([None, None], tf.bool),
    }
    run = tf.function(model, input_signature=[signature])
    given = {name: tf.constant(value) for name, value in inputs().items()}
    return lambda: run(given).numpy()


@contextlib.contextmanager
def torch_encoder(python: Path, dtype: str) -> Iterator[Callable[[], object]]:
    settings = {
        "vocab_size": MINILM.vocab_size, "hidden_size": MINILM.embedding_dim,
        "num_hidden_layers": MINILM.num_layers, "num_attention_heads": MINILM.num_heads,
        "intermediate_size": MINILM.feed_forward_dim,
    }  # fmt: skip
    script = Path(__file__).with_name("torch_encoder.py")
    with subprocess.Popen(
        [python, script, json.dumps(settings), dtype],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as peer:  # fmt: skip
        assert peer.stdin is not None and peer.stdout is not None
        if peer.stdout.readline() != "ready\n":
            raise RuntimeError(f"{python} must have torch and transformers; it did not start")

        def run() -> None:
            peer.stdin.write(json.dumps([ROWS, TIME]) + "\n")
            peer.stdin.flush()
            assert int(peer.stdout.readline()) == ROWS * TIME

        yield run
        peer.stdin.close()


def classifier(precision: str) -> tuple[keras.Model, tf.data.Dataset]:
    model = SequenceClassifier(MINILM, num_labels=LABELS, dtype=dtype_policy(precision))
    model.compile(AdamW(5e-5, 0.01, global_clipnorm=1.0))
    labels = np.arange(ROWS) % LABELS
    return model, tf.data.Dataset.from_tensors((inputs(), labels)).repeat()


def keras_hub_classifier(precision: str, jit_compile: bool) -> tuple[keras.Model, tf.data.Dataset]:
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=MINILM.vocab_size, num_layers=MINILM.num_layers,
        num_heads=MINILM.num_heads, hidden_dim=MINILM.embedding_dim,
        intermediate_dim=MINILM.feed_forward_dim, max_sequence_length=MINILM.max_sequence_length,
        dtype=dtype_policy(precision),
    )  # fmt: skip
    model = keras_hub.models.BertTextClassifier(
        backbone, LABELS, preprocessor=None, dtype=dtype_policy(precision)
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    given = inputs()
    x = {**given, "segment_ids": np.zeros_like(given["token_ids"])}
    return model, tf.data.Dataset.from_tensors((x, np.arange(ROWS) % LABELS)).repeat()


def inference_table(options: argparse.Namespace, precision: str) -> None:
    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        if options.torch:
            for dtype in ("float32", "bfloat16"):
                peer = stack.enter_context(torch_encoder(options.torch, dtype))
                runs[f"transformers on PyTorch, {dtype}"] = peer
        for dtype in dict.fromkeys(["float32", precision]):
            runs[f"tfllm Encoder, {dtype}, no XLA"] = encoder(dtype)
        seconds = interleaved(runs, options.rounds)
    peers = [value for name, value in seconds.items() if "PyTorch" in name]
    base = min(peers, default=max(seconds.values()))
    title = f"MiniLM, {ROWS} x {TIME} tokens, inference"
    table = [(title, "ms", "tokens/s", "compared with the fastest peer")]
    for name, value in seconds.items():
        rate = ROWS * TIME / value
        table.append((name, f"{1000 * value:,.0f}", f"{rate:,.0f}", f"{base / value:.2f}x"))
    print_table(f"Encoder, {ROWS} x {TIME} tokens", table)


def training_table(options: argparse.Namespace, precision: str) -> None:
    contestants = {
        "KerasHub BertTextClassifier.fit, float32": keras_hub_classifier("float32", False)
    }
    if options.all_peers:
        for dtype, xla in (("float32", True), (precision, False)):
            name = f"KerasHub BertTextClassifier.fit, {dtype}{', XLA' if xla else ''}"
            contestants[name] = keras_hub_classifier(dtype, xla)
    for dtype in dict.fromkeys(["float32", precision]):
        contestants[f"tfllm SequenceClassifier.fit, {dtype}"] = classifier(dtype)
    timers = {name: StepTimer() for name in contestants}
    for _ in range(options.rounds):
        for name, (model, rows) in contestants.items():
            model.fit(
                rows, steps_per_epoch=options.steps, verbose=0, shuffle=False,
                callbacks=[timers[name]],
            )  # fmt: skip
    base = next(iter(timers.values())).median()
    title = f"MiniLM, {ROWS} x {TIME} tokens, a classifier's step"
    table = [(title, "ms", "compared with KerasHub")]
    for name, timer in timers.items():
        value = timer.median()
        table.append((name, f"{1000 * value:,.0f}", f"{base / value:.2f}x"))
    print_table(f"A classifier's step, {ROWS} x {TIME} tokens", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="steps of each in a round")
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--all-peers", action="store_true", help="KerasHub with XLA and bfloat16")
    parser.add_argument("--only", choices=("inference", "training"))
    options = parser.parse_args()
    precision = choose_precision("auto")
    if options.only != "training":
        inference_table(options, precision)
    if options.only != "inference":
        training_table(options, precision)


if __name__ == "__main__":
    main()
