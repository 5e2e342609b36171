"""How fast `tfllm prepare` tokenizes and packs, and how much memory it takes.

    python benchmarks/preparing.py                          # 10 and 100 MB
    python benchmarks/preparing.py --megabytes 10 100 1000

The text consists of randomly drawn sentences of the project's example text, as JSON lines of 2 to
20 kB. Each row of the table is measured in a process of its own. The times are those of a whole
`prepare` with an existing tokenizer: reading the text twice, tokenizing, writing.
"""

import argparse
import gzip
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfllm.config import PrepareConfig
from tfllm.data import PreparedData, rows_dataset
from tfllm.tasks import prepare

EXAMPLE = Path(__file__).parent.parent / "examples" / "data" / "state_of_the_union.jsonl.gz"


def write_corpus(path: Path, num_bytes: int) -> None:
    with gzip.open(EXAMPLE, "rt", encoding="utf-8") as file:
        sentences = [s for line in file for s in re.split(r"(?<=\.) ", json.loads(line)["text"])]
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < num_bytes:
            text = " ".join(draw.choices(sentences, k=draw.randint(15, 150)))
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def measure(source: str, out: str, tokenizer: str, processes: int) -> None:
    """Run in a process of its own, and print the measurements as JSON."""
    config = PrepareConfig(tokenizer=tokenizer or None, vocab_size=8192, num_processes=processes)
    start = time.perf_counter()
    data = prepare(source, out, config, show_progress=False)
    seconds = time.perf_counter() - start
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    unit = 1024 if sys.platform == "linux" else 1024**2
    found = {
        "megabytes": sum(s["num_bytes"] for s in data.manifest["splits"].values()) / 1e6,
        "seconds": seconds,
        "cpu_seconds": own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
        "parent_mib": own.ru_maxrss / unit,
        "worker_mib": others.ru_maxrss / unit,  # of the largest worker
    }
    print(json.dumps(found))


def run(source: Path, out: Path, tokenizer: str, processes: int) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", source, out, tokenizer, str(processes)],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},  # one core per process
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def print_run(what: str, processes: int, found: dict) -> None:
    rate = found["megabytes"] / found["seconds"]
    workers = f"{processes} x {found['worker_mib']:.0f}" if processes > 1 else "-"
    print(
        f"{what:<12} {processes:>9} {found['seconds']:>8.1f} {rate:>7.2f} "
        f"{rate / processes:>11.2f} {found['megabytes'] / found['cpu_seconds']:>14.2f} "
        f"{found['parent_mib']:>12.0f} {workers:>12}",
        flush=True,
    )


def measure_rows(folder: Path) -> None:
    data = PreparedData.open(folder)
    data.verify()  # now the files are cached in memory
    start = time.perf_counter()
    data.verify()
    size = sum(path.stat().st_size for path in folder.iterdir())
    rate = size / (time.perf_counter() - start) / 1e6
    print(f"PreparedData.verify, {size / 1e6:.0f} MB in memory: {rate:.0f} MB/s, all cores")
    rows = rows_dataset(data, "train", sequence_length=512, batch_size=8)
    batches = iter(rows)
    for _ in range(50):
        next(batches)
    times = []
    for _ in range(1000):
        start = time.perf_counter()
        next(batches)
        times.append(time.perf_counter() - start)
    print(
        f"rows_dataset, batches of 8 x 512, shuffled: {sum(times) / len(times) * 1e3:.2f} ms a "
        "batch when nothing else is done (a training step hides most of it)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where to write the text; default: a new one")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        source, out, tokenizer, processes = arguments.measure
        measure(source, out, tokenizer, int(processes))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        print(
            f"{'text':<12} {'processes':>9} {'seconds':>8} {'MB/s':>7} {'MB/s a core':>11} "
            f"{'MB/CPU second':>14} {'parent, MiB':>12} {'workers, MiB':>12}"
        )
        tokenizer = ""
        for megabytes in arguments.megabytes:
            source = folder / "corpus.jsonl"
            write_corpus(source, megabytes * 10**6)
            if not tokenizer:
                tokenizer = str(folder / "tokenizer")
                found = run(source, Path(tokenizer), "", 1)
                print_run(f"{megabytes} MB, train", 1, found)
            for processes in arguments.processes:
                out = folder / f"{megabytes}-{processes}"
                print_run(f"{megabytes} MB", processes, run(source, out, tokenizer, processes))
        measure_rows(out)


if __name__ == "__main__":
    main()
