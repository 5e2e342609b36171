"""Speed of the tokenizer in the graph compared with the Rust one, on the same text and process.

    python benchmarks/tokenizing.py [TEXT...] [--tokenizer FOLDER] [--megabytes 2] [--rounds 5]

The contenders take turns; the medians are printed, in MB of UTF-8 per second. All run on one
thread, except the one that says otherwise. Without TEXT the text is the source code of this
Python's standard library; without a tokenizer one of 8,192 tokens is trained on the text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from side_by_side import print_table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="*", type=Path, help="files to tokenize")
    parser.add_argument("--tokenizer", help="a tokenizer.json or its folder; default: train one")
    parser.add_argument("--megabytes", type=float, default=2.0, help="how much of the text")
    parser.add_argument("--documents", type=int, default=200, help="pieces to cut the text into")
    parser.add_argument("--rounds", type=int, default=5, help="turns; the median counts")
    args = parser.parse_args()

    import tensorflow as tf

    from tfllm.tokenizers import BytePairTokenizer

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    size = int(args.megabytes * 1e6)
    documents = _documents(args.text, size, args.documents)
    size = sum(len(d.encode()) for d in documents)
    if args.tokenizer:
        tokenizer = BytePairTokenizer.load(args.tokenizer)
    else:
        tokenizer = BytePairTokenizer.train(documents, 8192)
    graph = tokenizer.graph()
    batch = tf.constant(documents)
    prompt = tf.constant(["Tell me a short story about a dragon who could not fly."])
    assert graph.tokenize(batch).to_list() == tokenizer.encode_batch(documents)

    contestants: dict[str, tuple[float, Callable[[], object]]] = {
        "Rust `tokenizers`, one text a call": (
            size,
            lambda: [tokenizer.encode(d) for d in documents],
        ),
        f"Rust `tokenizers`, a batch, {os.cpu_count()} threads": (
            size,
            lambda: tokenizer.encode_batch(documents),
        ),
        "tfllm, in the graph, a batch": (size, lambda: graph.tokenize(batch)),
        "tfllm, in the graph, one text a call": (
            size,
            lambda: [graph.tokenize(batch[i : i + 1]) for i in range(len(documents))],
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, (_, run) in contestants.items():
            seconds[name].append(_seconds(run))
    one_prompt = [_seconds(lambda: graph.tokenize(prompt)) for _ in range(100)]

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    print(f"\n{size / 1e6:.2f} MB in {len(documents)} texts")
    table = [("tokenizing, one thread in the graph", "MB/s", "compared with the first")]
    for name, median in medians.items():
        table.append((name, f"{size / 1e6 / median:.2f}", f"{first / median:.2f}x"))
    print_table(f"Tokenizing, a vocabulary of {tokenizer.vocab_size:,} tokens", table)
    print(f"one prompt in the graph: {1000 * statistics.median(one_prompt):.2f} ms")


def _documents(files: list[Path], size: int, number: int) -> list[str]:
    """The text, cut into equal pieces."""
    if not files:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = ""
    for file in files:
        if len(text) >= size:
            break
        text += file.read_text(encoding="utf-8", errors="replace")
    text = text[:size]
    length = max(1, len(text) // number)
    return [text[i : i + length] for i in range(0, len(text), length)]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
