"""The benefit of pretraining with few labels: encoders with different initial weights.

They are trained on 50, 200 and 1,000 labelled mails to detect spam, and evaluated on 1,000 mails
that were collected later (examples/data/README.md):

- MiniLM: all-MiniLM-L6-v2, pretrained by others on a billion pairs of sentences (`make minilm`);
- the same from scratch: its sizes, random weights, a vocabulary learned from the labelled mails;
- with --pretrain, pretrained here: a small encoder that was trained for some minutes to predict
  hidden words (`task="masked_language_model"`) in the unlabelled mails of the first collection;
- and the small one from scratch, for comparison.

Each is repeated --draws times with other mails and other initial weights. TF-IDF with logistic
regression sees the same mails. The figure shows the means, with a band from the worst draw to the
best.

Usage: python examples/10_transfer.py [--quick] [--pretrain] [--draws N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tfllm.cli import quiet_start

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
SMALL = {"size": "bert-mini"}
BASELINE = "TF-IDF, logistic regression"


def mails() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The mails of the first collection, and later ones in a fixed random order."""
    path = HERE / "data" / "spam.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first, later = ([r for r in rows if r["collection"] == name] for name in ("first", "later"))
    random.Random(0).shuffle(later)
    return first, later


def write(rows: list[dict[str, str]], path: Path) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: tiny models, few mails")
    parser.add_argument("--pretrain", action="store_true", help="also pretrain a small encoder")
    parser.add_argument("--draws", type=int, default=1, help="number of draws of labelled mails")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--pictures", type=Path, help="default: the folder --out")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        from baselines.tfidf import predict_tfidf
        from pretrained import minilm

        from tfllm.charts import model_charts as charts
        from tfllm.data.reading.table_records import Record
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.tasks import evaluate, task_named
        from tfllm.training import train

    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    quick = options.quick
    draws = options.draws
    # The fewer the mails, the more often each is seen.
    passes = {50: 2} if quick else {50: 12, 200: 6, 1000: 2}
    first, later = mails()
    later = later[: 100 if quick else 1000]
    test = write(later, options.out / "test.csv")

    def said(text: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)

    # 1. The initial weights. A few updates from scratch need a higher learning rate.
    begins: dict[str, tuple[Any, float]] = {}
    if not quick:
        new = {"num_layers": 6, "embedding_dim": 384, "num_heads": 12}
        begins = {"MiniLM": (minilm(), 1e-4), "the same from scratch": (new, 5e-4)}
    if quick or options.pretrain:
        # Hidden words in mails without labels: pretraining with tfllm.
        small: Any = {**SMALL, "num_layers": 1, "embedding_dim": 64} if quick else SMALL
        unlabelled = [{"text": row["text"]} for row in (first[::20] if quick else first)]
        pretraining = train(
            write(unlabelled, options.out / "unlabelled.csv"),
            options.out / "pretrained",
            small,
            task="masked_language_model",
            epochs=1 if quick else 5,
            sequence_length=96,
            batch_size=32,
            learning_rate=1e-3,
            validate_every=10_000,
            verbose=False,
        )
        metrics = ", ".join(f"{m.name} {m.format()}" for m in pretraining.task_metrics)
        said(f"pretrained on {len(unlabelled):,} mails, {pretraining.step} updates: {metrics}")
        begins["pretrained here"] = (str(options.out / "pretrained"), 2e-4)
        begins["the small one from scratch"] = (small, 5e-4)

    # 2. The same labelled mails for each.
    definition = task_named("classification")
    values: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in passes} for name in (*begins, BASELINE)
    }
    for draw in range(draws):
        random.Random(draw).shuffle(first)
        for size, epochs in passes.items():
            rows = first[:size]
            data = write(rows, options.out / "labelled.csv")
            answers = predict_tfidf(
                *([row[key] for row in rows] for key in ("text", "label")),
                [row["text"] for row in later],
            )
            records = [Record(row) for row in later]
            found = {BASELINE: metric_values(definition.metrics(records, answers))}
            for name, (model, learning_rate) in begins.items():
                folder = options.out / "run"
                shutil.rmtree(folder, ignore_errors=True)
                train(
                    data,
                    folder,
                    model,
                    task="classification",
                    epochs=epochs,
                    sequence_length=96,
                    batch_size=16,
                    learning_rate=learning_rate,
                    validate_every=10_000,
                    seed=draw,
                    verbose=False,
                )
                found[name] = list(evaluate(folder, test).metrics)
            for name, of in found.items():
                values[name][size].append(next(m.value for m in of if m.name == "macro F1"))
            said(f"draw {draw + 1}, {size} mails")

    print(f"\nmacro F1 on {len(later):,} later mails: mean [worst, best] of {draws} draws\n")
    print(f"{'labelled mails':<28}" + "".join(f"{size:>22,}" for size in passes))
    curves = {}
    for name, of in values.items():
        curves[name] = {s: (statistics.mean(v), min(v), max(v)) for s, v in of.items()}
        cells = "".join(
            f"{m:>8.3f} [{low:.3f}, {high:.3f}]" for m, low, high in curves[name].values()
        )
        print(f"{name:<28}{cells}")
    figure = charts.learning_curves(
        curves,
        x_label="labelled mails",
        y_label="macro F1 on later mails",
        title="What pretraining is worth",
        log_x=True,
        baselines=[BASELINE],
    )
    pictures = options.pictures or options.out
    pictures.mkdir(parents=True, exist_ok=True)
    print(f"\ndrawn: {charts.save(figure, pictures / 'transfer.png', dpi=80)}")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
