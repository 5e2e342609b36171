"""Generate text: a model trained from scratch, compared with an n-gram model of the same text.

A Llama with one million parameters is trained on State of the Union addresses; from scratch,
because the baseline has seen no other text either. A tenth of the addresses is held out. Both
models use the same tokenizer, and every token of the held-out addresses counts: perplexity is per
token, and bits per byte can be compared between any two models of text. The n-gram model is of the
strongest kind: interpolated, with modified Kneser-Ney smoothing.

Usage: python examples/04_text_generation.py [--quick] [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from baselines.ngram import NgramModel

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
TEXT = HERE / "data" / "state_of_the_union.jsonl.gz"
PROMPTS = ("My fellow Americans,", "The budget of the Government", "We must not forget that")
ORDER = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps on a part of the text")
    parser.add_argument("--size", default="llama-1m", help="size of the model")
    parser.add_argument("--steps", type=int, default=1500, help="updates of the weights")
    parser.add_argument("--out", default="runs/text_generation", help="folder of data and run")
    parser.add_argument("--pictures", default=str(HERE / "pictures"), help="folder of the picture")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        import tfllm
        from tfllm.charts import model_charts as charts
        from tfllm.evaluation.bootstrap import confidence_interval
        from tfllm.evaluation.document_losses import DocumentLosses, document_losses
    steps = 20 if options.quick else options.steps
    out = Path(options.out)
    if (out / "run" / "run.json").exists():  # from an earlier run
        shutil.rmtree(out / "run")

    # 1. The addresses, one in ten held out.
    with gzip.open(TEXT, "rt", encoding="utf-8") as file:
        addresses = [json.loads(line)["text"] for line in file]
    if options.quick:
        addresses = [text[:20_000] for text in addresses[:20]]
    held_out = addresses[9::10]
    learned = [text for i, text in enumerate(addresses) if i % 10 != 9]
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in (("learned", learned), ("held_out", held_out)):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    data = tfllm.prepare(
        [out / "learned.jsonl"], out / "data",
        tfllm.PrepareConfig(
            vocab_size=512 if options.quick else 4096, validation=(str(out / "held_out.jsonl"),)
        ),
        overwrite=(out / "data").exists(),
    )  # fmt: skip

    # 2. The baseline: an n-gram model of the same tokens.
    tokenizer = data.tokenizer
    counted = NgramModel(tokenizer.encode_batch(learned), tokenizer.vocab_size, ORDER)
    ids = tokenizer.encode_batch(held_out)
    baseline = DocumentLosses(
        np.array([counted.losses(document).sum() for document in ids]),
        np.array([len(document) for document in ids]),
        np.array([len(text.encode()) for text in held_out]),
    )

    # 3. The model, from scratch.
    run = tfllm.train(
        data, out / "run", options.size, sequence_length=256, batch_size=16, steps=steps,
        learning_rate=3e-3, validate_every=max(steps // 10, 1), checkpoint_every=max(steps // 5, 1),
        validation_batches=0,
    )  # fmt: skip
    if run.interrupted_by:
        return 130

    # 4. Both on the held-out addresses, with confidence intervals over the choice of addresses.
    task = tfllm.TextGeneration.load(run.model_folder)
    found = document_losses(task.decoder, tokenizer, held_out, sequence_length=256)  # as trained
    rows = {"": f"{'perplexity':24}{'bits per byte':28}"}
    names = {f"{ORDER}-gram, Kneser-Ney": baseline, f"{options.size}, from scratch": found}
    for name, losses in names.items():
        rows[name] = "".join(
            f"{'{:.4g} ({:.4g} to {:.4g})'.format(*confidence_interval(m)):24}"
            for m in losses.metrics()
        )
    fewer = [b.minus(a) for a, b in zip(found.metrics(), baseline.metrics(), strict=True)]
    rows["less than the n-gram model by"] = "".join(
        f"{'{:.3g} ({:.3g} to {:.3g})'.format(*confidence_interval(m)):24}" for m in fewer
    )
    print("\n" + table(rows) + "\n")

    # 5. Texts of both, with the same temperature.
    samples = task.generate(list(PROMPTS), max_new_tokens=50, temperature=0.8, seed=1)
    for prompt, text in zip(PROMPTS, samples, strict=True):
        print(f"{prompt}\n  n-gram: {' '.join(continued(counted, tokenizer, prompt).split())}")
        print(f"  model:  {' '.join(text.split())}\n")

    lines = (out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    curve = {
        row["step"]: row["validation_perplexity"]
        for row in map(json.loads, lines)
        if row.get("validation_perplexity") is not None
    }
    level = baseline.metrics()[0].value
    figure = charts.learning_curves(
        {
            f"{options.size}, from scratch": curve,
            f"{ORDER}-gram": dict.fromkeys((min(curve), max(curve)), level),
        },
        x_label="step", y_label="perplexity of the held-out addresses",
        title="Learning to predict State of the Union addresses", baselines=[f"{ORDER}-gram"],
    )  # fmt: skip
    picture = charts.save(figure, Path(options.pictures) / "text_generation.png")
    rows = {
        "addresses": f"{len(learned)} to train on, {len(held_out)} held out "
        f"({found.num_tokens.sum():,} tokens)",
        "trained": f"{run.num_parameters:,} parameters, {run.step} steps of {16 * 256:,} tokens "
        f"({run.step * 16 * 256 / data.train.num_tokens:.1f} epochs), {run.precision}",
        "tokens/s": f"{run.tokens_per_second:,.0f}",
        "picture": os.path.relpath(picture),
        "time": f"{time.perf_counter() - start:.0f} s",
    }
    print(table(rows))
    return 0


def continued(model: NgramModel, tokenizer: object, prompt: str, temperature: float = 0.8) -> str:
    """Sample a continuation of 50 tokens from the n-gram model."""
    random = np.random.default_rng(1)
    ids = tokenizer.encode(prompt)
    for _ in range(50):
        chances = model.distribution(ids) ** (1 / temperature)
        ids.append(int(random.choice(len(chances), p=chances / chances.sum())))
    return tokenizer.decode(ids)[len(prompt) :]


if __name__ == "__main__":
    sys.exit(main())
