"""Embedding: find the function that a sentence describes, compared with TF-IDF.

The pairs are real and available with every Python: a function of the standard library and the first
paragraph of its docstring. The sentence is the query, and the source without its docstring has to
be found among those of all held-out functions. Whole packages are held out, a third of them by a
hash of their names, so that nothing of a held-out package is in the training data. Sentences with
fewer than five words, sentences that describe several functions, and functions with fewer than four
lines are left out.

The encoder is all-MiniLM-L6-v2 (`make minilm` installs it), without and with fine-tuning on the
other packages' pairs: a model from scratch would have to learn English and Python from 1,700 of
them. The baseline is the cosine of TF-IDF vectors, in which names are split into their words.

Usage: python examples/09_embedding.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
import sysconfig
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfllm.cli import quiet_start

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

NOT_READ = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "pydoc_data"}
ASKED = "Return True if the two paths lead to the same file on the disk."


class Pair(NamedTuple):
    """A function and its description."""

    package: str
    text: str
    positive: str


def functions() -> Iterator[Pair]:
    """Every function of the standard library with a docstring of five words or more."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if NOT_READ & set(place.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):  # a file that tests a parser
            continue
        lines = source.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            end = node.body[0].end_lineno or 0
            code = lines[node.lineno - 1 : node.body[0].lineno - 1] + lines[end : node.end_lineno]
            if len(text.split()) >= 5 and len(node.body) > 1 and len(code) >= 4:
                yield Pair(place.parts[0].removesuffix(".py"), text, "\n".join(code))


def write(pairs: list[Pair], path: Path) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        for pair in pairs:
            print(json.dumps(pair._asdict()), file=file)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute: few pairs and updates")
    parser.add_argument("--out", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--pictures", type=Path, help="default: the folder --out")
    options = parser.parse_args()
    start = time.perf_counter()
    with quiet_start():
        from baselines.tfidf_search import cosines
        from pretrained import minilm

        from tfllm.charts import model_charts as charts
        from tfllm.evaluation.metric_values import metric_values
        from tfllm.evaluation.retrieval_metrics import mean_reciprocal_rank, ranked, recall_at
        from tfllm.tasks import evaluate, load
        from tfllm.training import train

    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)

    # 1. Pairs; a third of the packages is held out.
    pairs = list(functions())
    counts = Counter(pair.text for pair in pairs)
    pairs = [pair for pair in pairs if counts[pair.text] == 1]
    held_out = [pair for pair in pairs if zlib.crc32(pair.package.encode()) % 3 == 0]
    learned = [pair for pair in pairs if zlib.crc32(pair.package.encode()) % 3]
    if options.quick:
        held_out, learned = held_out[::13], learned[::13]
    data = write(learned, options.out / "learned.jsonl")
    test = write(held_out, options.out / "held_out.jsonl")
    print(f"{len(learned):,} functions to train on, {len(held_out):,} held out", flush=True)

    # 2. TF-IDF.
    documents = list(dict.fromkeys(pair.positive for pair in held_out))
    scores = cosines(
        [pair.text for pair in held_out], documents, [pair.positive for pair in learned]
    )
    right = [{documents.index(pair.positive)} for pair in held_out]
    rankings = ranked(scores)
    found = {
        "TF-IDF cosine": metric_values(
            [recall_at(10, right, rankings), mean_reciprocal_rank(right, rankings)]
        )
    }

    # 3. MiniLM without and with fine-tuning.
    model = minilm()
    found["MiniLM as it comes"] = list(evaluate(model, test, task="embedding").metrics)
    run = train(
        data,
        options.out / "run",
        model,
        task="embedding",
        epochs=1 if options.quick else 3,
        sequence_length=64 if options.quick else 128,
        batch_size=32,
        learning_rate=5e-5,
        validate_every=1000,
        verbose=False,
    )
    print(f"fine-tuned: {run.step} updates, {time.perf_counter() - start:.0f} s so far", flush=True)
    found["MiniLM, fine-tuned"] = list(evaluate(options.out / "run", test).metrics)

    names = [metric.name for metric in found["TF-IDF cosine"]]
    print("\n" + " " * 20 + "".join(f"{name:>26}" for name in names))
    for name, metrics in found.items():
        cells = "".join(f"{m.value:>10.3f} [{m.low:.3f}, {m.high:.3f}]" for m in metrics)
        print(f"{name:<20}{cells}")
    figure = charts.metric_bars(
        {
            name: {
                system: (metrics[i].value, metrics[i].low, metrics[i].high)
                for system, metrics in found.items()
            }
            for i, name in enumerate(names)
        },
        title=f"Which of {len(documents):,} functions is described?",
        baselines=["TF-IDF cosine"],
    )
    pictures = options.pictures or options.out
    pictures.mkdir(parents=True, exist_ok=True)
    print(f"\ndrawn: {charts.save(figure, pictures / '09_embedding.png', dpi=80)}")

    # 4. Query.
    task = load(options.out / "run")
    order = ranked(task.embed([ASKED]) @ task.embed(documents).T, 3)[0]
    print(f"\n{ASKED}")
    for place in order:
        print(f"  {documents[place].splitlines()[0].strip()}")
    print(
        f"\n{time.perf_counter() - start:.0f} s in all; serve it:  tfllm export "
        f"{options.out / 'run'} saved_models/functions && tfllm serve saved_models"
    )


if __name__ == "__main__":
    main()
