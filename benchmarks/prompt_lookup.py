"""Prompt lookup decoding compared with plain decoding: SmolLM2-135M-Instruct, greedy replies.

Both run in turn in the same process, and must give the same text. Tokens per forward pass are
counted in a stream, each of whose calls is one pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tensorflow as tf
from side_by_side import print_table, wall_and_cpu
from smollm2 import smollm2

import tfllm
from tfllm.generation.option_inputs import row_tensors

REPORT = (
    "The harbour office of Port Ellery closed its old signal tower on Monday after ninety years of "
    "service. The tower guided ships past the Needle Rocks, where eleven vessels were lost before "
    "it was built. A network of lit buoys, paid for by the fishing cooperative, now marks the safe "
    "channel. The harbour master, Ines Caldeira, said that the tower will become a museum of local "
    "navigation, and that the lamp will be lit once a year on the anniversary of its opening."
)
CODE = '''def average_speed(distances, times):
    """The average speed of a trip in kilometres per hour."""
    total_distance = 0
    for distance in distances:
        total_distance = total_distance + distance
    total_time = 0
    for time in times:
        total_time = total_time + time
    return total_distance / total_time
'''
REQUESTS = {
    "summary": f"Summarize this report in two sentences.\n\n{REPORT}",
    "answer with quotes": "Read this report, and answer the question with quotes from it.\n\n"
    f"{REPORT}\n\nQuestion: What marks the safe channel now, and what will the tower become?",
    "code edit": "Fix the bug in this function: the variable `time` must be called `duration`.\n\n"
    f"```python\n{CODE}```",
    "free text": "Write a short story about a clockmaker who moves to a mountain village.",
}


def tokens_per_pass(task: tfllm.Chat, request: str, **options: Any) -> float:
    """Average number of tokens that a forward pass gives, that of the prompt included."""
    prompt = task.template.prompt([{"role": "user", "content": request}])
    inputs = row_tensors([task.generation.with_options(options)])
    state = task.chat_stream_begin(prompt=tf.constant([prompt]), **inputs)
    passes = 1
    while not state["done"].numpy()[0]:
        state = task.stream_next(state)
        passes += 1
    return int(state["generated_tokens"].numpy()[0]) / passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--lookup-tokens", type=int, default=8)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"])
    parser.add_argument("--requests", nargs="+", default=list(REQUESTS), choices=list(REQUESTS))
    given = parser.parse_args()
    title = f"greedy, {given.new_tokens} tokens, drafts of {given.lookup_tokens}"
    figures = [f"{clock}, {of}" for clock in ("wall", "CPU") for of in ("least", "median")]
    rows = [(title, "dtype", "tokens a pass", *figures, "same text")]
    for dtype in given.dtypes:
        task = tfllm.load(smollm2(), dtype=dtype)
        for name in given.requests:
            request = REQUESTS[name]
            messages = [{"role": "user", "content": request}]
            texts: dict[int, str] = {}

            def reply(
                lookup: int, messages: Any = messages, task: Any = task, texts: Any = texts
            ) -> None:
                texts[lookup] = task.reply(
                    messages, max_new_tokens=given.new_tokens, prompt_lookup_tokens=lookup
                )

            both = (0, given.lookup_tokens)
            seconds: dict[int, list[tuple[float, float]]] = {lookup: [] for lookup in both}
            for number in range(given.rounds + 1):
                for lookup in both if number % 2 else reversed(both):
                    spent = wall_and_cpu(lambda lookup=lookup: reply(lookup))
                    if number:  # the first round traces and warms up
                        seconds[lookup].append(spent)
            plain, lookup = ([list(clock) for clock in zip(*seconds[n], strict=True)] for n in both)
            ratios = [
                f"{of(plain[clock]) / of(lookup[clock]):.2f}x"
                for clock in (0, 1)
                for of in (min, statistics.median)
            ]
            rate = tokens_per_pass(
                task, request, max_new_tokens=given.new_tokens, prompt_lookup_tokens=both[1]
            )
            same = "yes" if texts[0] == texts[both[1]] else "no"
            rows.append((name, dtype, f"{rate:.2f}", *ratios, same))
            print(rows[-1], flush=True)
    print_table("Prompt lookup decoding: speed-up over plain decoding", rows)


if __name__ == "__main__":
    main()
