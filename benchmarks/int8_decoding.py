"""Decoding of SmolLM2-135M in int8, compared with float32: time per token and perplexity.

The exported models run as TensorFlow Serving would run them, without XLA, and take turns. The time
of a token is the difference between a long and a short answer, so that it does not include the
prompt; CPU time counts all cores. The perplexity is that of a decoder that is given real text token
by token, so that it is the decoding step that is judged.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from exported_model import exported
from side_by_side import print_table, wall_and_cpu
from smollm2 import smollm2

import tfllm
from tfllm.layers.integer_product import has_integer_kernel
from tfllm.optimization.precision import choose_precision

TEXT = Path(__file__).parents[1] / "examples" / "data" / "state_of_the_union.jsonl.gz"
PROMPT = "The people of these states have a long history of work, of trade and of peace."
SHORT = 8
"""tokens of the short answer"""


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
            runs[name] = exported(task, Path(folder) / dtype, PROMPT)
            print(json.dumps({"dtype": name, "perplexity": perplexities[name]}), flush=True)
        for batch in (1, 8):
            times: dict[str, list[np.ndarray]] = {name: [] for name in runs}
            for run in runs.values():
                run(batch, SHORT)
            for _ in range(options.rounds):
                for name, run in runs.items():
                    short, long = (
                        np.array(wall_and_cpu(functools.partial(run, batch, num)))
                        for num in (SHORT, options.new_tokens)
                    )
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
