"""Decoding of SmolLM2-135M in int8, compared with float32: time per token and perplexity.

The exported models run as TensorFlow Serving would run them, without XLA, and take turns. The time
of a token is the difference between a long and a short answer, so that it does not include the
prompt; CPU time counts all cores. The perplexity is that of a decoder that is given real text token
by token, so that it is the decoding step that is judged.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from side_by_side import print_table
from smollm2 import smollm2

import tfllm
from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.layers.integer_product import has_integer_kernel
from tfllm.optimization.precision import choose_precision
from tfllm.serving import export

TEXT = Path(__file__).parents[1] / "examples" / "data" / "state_of_the_union.jsonl.gz"
PROMPT = "The people of these states have a long history of work, of trade and of peace."
SHORT = 8
"""tokens of the short answer"""


def served(task: Any, folder: Path) -> Callable[[int, int], None]:
    loaded = tf.saved_model.load(str(export(task, folder, warmup_prompts=())))
    defaults = {**option_values(task.generation), "temperature": 0.0}

    def run(batch: int, new_tokens: int) -> None:
        values = {**defaults, "max_new_tokens": new_tokens}
        options = {n: tf.fill([batch], tf.constant(values[n], t)) for n, t in OPTION_DTYPES.items()}
        result = loaded.signatures["generate"](prompt=tf.fill([batch], PROMPT), **options)
        made = result["generated_tokens"].numpy()
        assert (made == new_tokens).all(), f"an end token came early: {made}"

    run.loaded = loaded  # type: ignore[attr-defined]  # keeps its variables alive
    return run


def seconds(run: Callable[[int, int], None], batch: int, new_tokens: int) -> np.ndarray:
    """Wall and CPU seconds of a call."""
    before, usage = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run(batch, new_tokens)
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
    return np.array([time.perf_counter() - before, cpu])


def perplexity(model: Any, token_ids: np.ndarray) -> float:
    """Of the tokens `[B, T]` after the first, each given to the decoder when it is its turn."""
    rows, length = token_ids.shape

    @tf.function
    def total(ids: tf.Tensor) -> tf.Tensor:
        cache = model.empty_cache(rows, length)
        _, cache = model.hidden_states(ids[:, :1], cache=cache)
        cache = cache._replace(next_index=tf.constant(1))
        sums = tf.constant(0.0)
        for i in tf.range(1, length - 1):
            hidden, cache = model.hidden_states(ids[:, i, tf.newaxis], cache=cache)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                ids[:, i + 1], model.logits(hidden[:, 0])
            )
            sums += tf.reduce_sum(losses)
        return sums

    return math.exp(float(total(tf.constant(token_ids))) / (rows * (length - 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=24, help="rows of text for the perplexity")
    parser.add_argument("--length", type=int, default=128, help="tokens in such a row")
    options = parser.parse_args()
    path = smollm2()
    names = {"float32": "float32", choose_precision("auto"): choose_precision("auto")}
    names["int8, portable"] = "int8_portable"
    if has_integer_kernel():
        names["int8, oneDNN"] = "int8_onednn"
    head = ("SmolLM2-135M, exported, no XLA", "sequences", "ms a token", "median", "speed")
    table = [(*head, "CPU ms", "median", "speed", "perplexity")]
    tokenizer = tfllm.load(path).tokenizer
    with gzip.open(TEXT, "rt", encoding="utf-8") as file:
        ids = tokenizer.encode("".join(json.loads(line)["text"] for line in list(file)[-4:]))
    text = np.asarray(ids[: options.rows * options.length], np.int32).reshape(options.rows, -1)
    with tempfile.TemporaryDirectory() as folder:
        runs, perplexities = {}, {}
        for name, dtype in names.items():
            task = tfllm.load(path, dtype=dtype)
            perplexities[name] = perplexity(task.model, text)
            runs[name] = served(task, Path(folder) / dtype)
            print(json.dumps({"dtype": name, "perplexity": perplexities[name]}), flush=True)
        for batch in (1, 8):
            times: dict[str, list[np.ndarray]] = {name: [] for name in runs}
            for run in runs.values():
                run(batch, SHORT)
            for _ in range(options.rounds):
                for name, run in runs.items():
                    short, long = (seconds(run, batch, n) for n in (SHORT, options.new_tokens))
                    times[name].append(1e3 * (long - short) / (options.new_tokens - SHORT))
            base = np.min(times["float32"], 0)
            for name, values in times.items():
                least, median = np.min(values, 0), np.median(values, 0)
                cells = [name, str(batch)]
                for i in (0, 1):
                    cells += [f"{least[i]:.1f}", f"{median[i]:.1f}", f"{base[i] / least[i]:.2f}x"]
                table.append((*cells, f"{perplexities[name]:.3f}"))
    print_table("int8 decoding: least and median of the rounds, compared with float32", table)


if __name__ == "__main__":
    main()
