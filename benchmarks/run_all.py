"""Run every benchmark, one after another, and print their tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "training_step.py",
    "decoding.py",
    "int8_decoding.py",
    "start_up.py",
    "prompt_lookup.py",
    "encoder.py",
    "translation.py",
    "loss_memory.py",
    "rematerialization.py",
    "long_attention.py",
    "quantization.py",
    "serving.py",
    "serving_overhead.py",
    "tokenizing.py",
    "preparing.py",
    "scaling.py",
    "scaling_simulation.py",
)


def main() -> int:
    failed = 0
    for script in SCRIPTS:
        print(f"## {script}", flush=True)
        failed |= subprocess.run([sys.executable, str(Path(__file__).parent / script)]).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
