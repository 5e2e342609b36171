"""Translate English to Spanish with a Transformer from scratch, compared with a word table.

The pairs are verses of two Bibles in the public domain. Whole chapters are held out, one in twenty,
so that no neighbour of a held-out verse is in the training data; held-out verses whose English text
is the same as in a training chapter are dropped. (The gospels, and Kings and Chronicles, also tell
many
things twice in nearly the same words: both systems see that.) The language is that of the Bibles:
    the
model knows no other.

The model is a small Transformer as in "Attention Is All You Need", from scratch: no pretrained
translation model is available without a network, and 21,000 pairs are too few for a large one. The
baseline is word-by-word translation with a table that IBM's model 1 learns from the same pairs.

Usage: python examples/05_translation.py [--quick] [--epochs N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import shutil
import time
from pathlib import Path

from baselines.word_table import WordTable

from tfllm.cli import quiet_start

HERE = Path(__file__).parent
VERSES = HERE / "data" / "verses.csv.gz"
ASKED = (
    "The king sent messengers to the city.",
    "And God saw that the light was good.",
    "The internet is down.",
)
MODEL = {"num_layers": 2, "embedding_dim": 256, "num_heads": 4, "feed_forward_dim": 1024}
TINY = {"num_layers": 1, "embedding_dim": 64, "num_heads": 2, "feed_forward_dim": 128}


def write(rows: list[dict[str, str]], path: Path) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "translation"])
        writer.writerows([row["english"], row["spanish"]] for row in rows)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few verses and updates")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/translation"))
    parser.add_argument("--pictures", type=Path, help="default: the folder --out")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        from tfllm.charts import model_charts as charts
        from tfllm.config import PrepareConfig
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.evaluation.text_metrics import bleu, chrf
        from tfllm.tasks import evaluate, load
        from tfllm.training import train

    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)

    # 1. Verses; one chapter in twenty is held out.
    with gzip.open(VERSES, "rt", encoding="utf-8", newline="") as file:
        verses = list(csv.DictReader(file))
    chapters = list(dict.fromkeys(verse["chapter"] for verse in verses))
    held = set(chapters[9::20])
    learned = [verse for verse in verses if verse["chapter"] not in held]
    known = {verse["english"] for verse in learned}
    held_out = [v for v in verses if v["chapter"] in held and v["english"] not in known]
    if options.quick:
        learned, held_out = learned[::20], held_out[::25]
    data = write(learned, options.out / "learned.csv")
    test = write(held_out, options.out / "held_out.csv")
    print(f"{len(learned):,} verses to train on, {len(held_out):,} held out", flush=True)

    # 2. The table of words.
    table = WordTable([v["english"] for v in learned], [v["spanish"] for v in learned])
    references = [verse["spanish"] for verse in held_out]
    by_word = [table.translate(verse["english"]) for verse in held_out]
    found = {"word by word": metric_values([bleu(references, by_word), chrf(references, by_word)])}

    # 3. The Transformer.
    run = train(
        data,
        options.out / "run",
        TINY if options.quick else MODEL,
        task="translation",
        prepare=PrepareConfig(
            vocab_size=512 if options.quick else 4096, validation=(str(test),)
        ),
        epochs=1 if options.quick else options.epochs,
        sequence_length=96,
        batch_size=48,
        learning_rate=1.5e-3,
        validate_every=20 if options.quick else 450,
        checkpoint_every=10_000,
        verbose=False,
    )  # fmt: skip
    print(
        f"{run.num_parameters:,} parameters, {run.step:,} updates, "
        f"{time.perf_counter() - start:.0f} s so far",
        flush=True,
    )
    evaluation = evaluate(options.out / "run", test, out=options.out / "predictions.jsonl")
    found["Transformer, beam 4"] = list(evaluation.metrics)

    # 4. Both, with confidence intervals over the choice of verses.
    names = [metric.name for metric in found["word by word"]]
    print("\n" + " " * 20 + "".join(f"{name:>22}" for name in names))
    for system, metrics in found.items():
        cells = "".join(f"{m.value:>8.1f} [{m.low:.1f}, {m.high:.1f}]" for m in metrics)
        print(f"{system:<20}{cells}")
    for metric in found["word by word"]:
        print(f"{metric.name}: {metric.note}")
    figure = charts.metric_bars(
        {
            name: {
                system: (metrics[i].value, metrics[i].low, metrics[i].high)
                for system, metrics in found.items()
            }
            for i, name in enumerate(names)
        },
        title=f"English to Spanish: {len(held_out):,} held-out verses",
        baselines=["word by word"],
    )
    pictures = options.pictures or options.out
    pictures.mkdir(parents=True, exist_ok=True)
    print(f"\ndrawn: {charts.save(figure, pictures / '05_translation.png', dpi=80)}\n")

    # 5. Translations of other sentences.
    task = load(options.out / "run")
    answers = task.predict([{"text": text} for text in ASKED])
    for text, answer in zip(ASKED, answers, strict=True):
        print(f"{text}\n  word by word: {table.translate(text)}")
        print(f"  Transformer:  {answer['translation']}  (score {answer['score']:.2f})")
    print(
        f"\n{time.perf_counter() - start:.0f} s in all; serve it:  tfllm export "
        f"{options.out / 'run'} saved_models/translation && tfllm serve saved_models"
    )


if __name__ == "__main__":
    main()
