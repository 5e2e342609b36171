"""Spam detection: a pretrained encoder fine-tuned on mails, compared with TF-IDF.

The mails are SpamAssassin's public corpus (examples/data/README.md). Both classifiers are trained
on its first collection and evaluated on mails that were collected later, since spam changes. At
first
there was less spam, and the future share is unknown: both give the two classes the same weight, the
logistic regression by class weights, the encoder by repeating the spam.
The model is all-MiniLM-L6-v2 (`make minilm` installs it): 22 million weights, pretrained on
English, and small enough to be fine-tuned on two cores in minutes.
examples/10_transfer.py shows the benefit of its pretraining with few labels.

Sentiment analysis is the same with other labels, and so is any classification of two files with the
columns text and label. examples/data/make_sentences.py downloads positive and negative sentences of
film reviews.

Usage: python examples/03_classification.py [--quick] [--train FILE --test FILE] [--epochs N]
    [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
BASELINE = "TF-IDF, logistic regression"
SAY = ["You have WON a prize, click here now!", "Re: patch for the parser | > why not?"]


def write_mails(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Write the first collection and the later one, each in a fixed random order."""
    with gzip.open(HERE / "data" / "spam.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = []
    for name, most in (("first", 100), ("later", 120)):
        found = [row for row in rows if row["collection"] == name]
        random.Random(0).shuffle(found)
        paths.append(folder / f"{name}.csv")
        with open(paths[-1], "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(found[:most] if quick else found)
    return paths[0], paths[1]


def balanced(path: Path, into: Path) -> Path:
    """Repeat texts with rarer labels, until no label is twice as rare as another."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["label"] for row in rows)
    most = max(counts.values())
    with open(into, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerows([row] * (most // counts[row["label"]]))
    return into


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few mails, a tiny model")
    parser.add_argument("--train", type=Path, help="other texts to train on: text, label")
    parser.add_argument("--test", type=Path, help="other texts to evaluate on: text, label")
    parser.add_argument("--epochs", type=int, help="default: 1, with --quick 4")
    parser.add_argument("--out", type=Path, default=Path("runs/classification"))
    parser.add_argument("--pictures", type=Path, help="default: examples/pictures, or --out")
    options = parser.parse_args()
    if (options.train is None) != (options.test is None):
        parser.error("--train and --test go together: give both, or neither for the mails")
    with quiet_start():
        from baselines.tfidf import predict_tfidf
        from pretrained import minilm

        from tfllm.charts import model_charts as charts
        from tfllm.data.reading.table_records import read_table
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.tasks import evaluate, load, task_named
        from tfllm.training import train

    own = options.train is not None
    pictures = options.pictures or (options.out if options.quick or own else HERE / "pictures")
    shutil.rmtree(options.out, ignore_errors=True)
    for folder in (options.out, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    learned, test = options.train, options.test
    if not own:
        learned, test = write_mails(options.out, options.quick)
    definition = task_named("classification")
    first, later = (read_table(path, definition.columns).records for path in (learned, test))
    print(f"{len(first):,} texts to train on, {len(later):,} to evaluate on")

    answers = predict_tfidf(
        [r["text"] for r in first], [r["label"] for r in first], [r["text"] for r in later]
    )
    found: dict[str, Any] = {BASELINE: metric_values(definition.metrics(later, answers))}

    name = "bert-tiny from scratch" if options.quick else "MiniLM, fine-tuned"
    start = time.perf_counter()
    run = train(
        balanced(learned, options.out / "balanced.csv"),
        options.out / "run",
        model={"size": "bert-tiny", "num_layers": 1} if options.quick else minilm(),
        task="classification",
        epochs=options.epochs or (4 if options.quick else 1),
        sequence_length=96,
        batch_size=16,
        learning_rate=5e-4 if options.quick else 1e-4,
        validate_every=100,
        verbose=False,
    )
    seconds = time.perf_counter() - start
    print(f"{name}: {run.step} updates in {seconds:.0f} s, {run.tokens_per_second:,.0f} tokens/s")
    for note in run_notes(options.out / "run"):
        print(f"note: {note}")
    result = evaluate(
        run.folder, test, task="classification", out=options.out / "predictions.jsonl"
    )
    found[name] = result.metrics
    print(f"answered {result.num_records / result.seconds:,.0f} texts/s\n")

    for system, metrics in found.items():
        print(f"{system}\n{table({m.name: m.format() for m in metrics})}")
    bars = {
        m.name: {system: (of[i].value, of[i].low, of[i].high) for system, of in found.items()}
        for i, m in enumerate(result.metrics)
    }
    figure = charts.metric_bars(
        bars, title=test.stem if own else "Later mails", baselines=[BASELINE]
    )
    drawn = [charts.save(figure, pictures / "03_classification.png", dpi=80)]
    for picture in result.pictures:
        drawn.append(pictures / f"03_{picture.name}")
        shutil.copy(picture, drawn[-1])
    print(f"\ndrawn: {', '.join(map(str, drawn))}")
    said = [record["text"] for record in later[:2]] if own else SAY
    for text, answer in zip(
        said, load(run.folder).predict([{"text": text} for text in said]), strict=True
    ):
        print(f"{text!r}: {answer['label']} ({answer['probability']:.1%})")
    served = "saved_models/" + (options.out.name if own else "spam")
    print(f"serve it:  tfllm export {run.folder} {served} && tfllm serve saved_models")


def run_notes(run: Path) -> list[str]:
    """The notes about the preparation of the records."""
    from tfllm.data import open_data

    return open_data(run / "data").notes()


if __name__ == "__main__":
    main()
