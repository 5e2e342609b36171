"""What SmolLM2-135M costs before it answers: the first text of a process, and a server's start.

Each model runs in processes of its own. "Ready" is when TensorFlow's C++ runtime, which is what
TensorFlow Serving runs, has loaded the export and answered its warm-up requests, one for each
signature; memory is the peak above that of the runtime before it loads the model. CPU time counts
all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from side_by_side import print_table
from smollm2 import smollm2

import tfllm
from tfllm.serving import export
from tfllm.serving.checks.run import run_requests
from tfllm.serving.checks.warmup_requests import warmup_requests
from tfllm.serving.saved_model.graph import SavedModelGraph

PROMPT = "The people of these states have a long history of work, of trade and of peace."
MIB = 2**20


def first_answers(dtype: str) -> None:
    """Print the CPU seconds of the first answer of a loaded model, and of the second."""
    model = tfllm.load(smollm2(), dtype=dtype)
    seconds = []
    for _ in range(2):
        before = time.process_time()
        model.generate([PROMPT], max_new_tokens=1)
        seconds.append(time.process_time() - before)
    print(json.dumps(seconds))


def measured(dtype: str, folder: Path) -> tuple[str, ...]:
    """A row of the table."""
    command = [sys.executable, __file__, "--first", dtype]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, second = json.loads(found.splitlines()[-1])
    before = time.process_time()
    version = export(tfllm.load(smollm2(), dtype=dtype), folder)
    exported = time.process_time() - before
    graph = SavedModelGraph.read(version)
    requests, _ = warmup_requests(version, graph)
    events, ended = run_requests(version, graph, requests, timeout=1800)
    assert not ended, ended
    loaded = next(event for event in events if event["event"] == "loaded")
    ends = [event for event in events if event["event"] == "end"]
    assert all(not event["error"] for event in ends), ends
    most = max(event["memory"] for event in ends) - loaded["runtime_memory"]
    size = (version / "saved_model.pb").stat().st_size
    return (
        dtype,
        f"{first:.1f}",
        f"{second:.2f}",
        f"{exported:.1f}",
        f"{size / 1e6:.1f}",
        f"{loaded['cpu_seconds']:.1f}",
        f"{ends[-1]['cpu_seconds']:.1f}",
        f"{most / MIB:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"])
    parser.add_argument("--first", metavar="DTYPE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        first_answers(options.first)
        return
    head = ("SmolLM2-135M", "first answer, CPU s", "second", "export, CPU s", "graph, MB")
    rows = [(*head, "loaded, CPU s", "ready, CPU s", "memory, MiB")]
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            rows.append(measured(dtype, Path(folder) / dtype))
    print_table("what a model costs before it answers", rows)


if __name__ == "__main__":
    main()
