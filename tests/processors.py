"""Run the numeric tests as other processors would compute them.

    python -m tests.processors                   # under each of PROCESSORS
    python -m tests.processors AVX2 no-oneDNN -- tests/layers -k attention

oneDNN, which multiplies matrices for TensorFlow on CPUs, chooses its kernels by the processor's
instruction set; `ONEDNN_MAX_CPU_ISA` restricts that set, and `TF_ENABLE_ONEDNN_OPTS=0` leaves the
products to Eigen, which blocks them differently. Sums then have another order. The command runs the
test modules that compare by `tests.rounding` (the mark `numeric`), except the tests with the mark
`half_precision` if the imitated processor has no bfloat16: TensorFlow asks the real processor
whether it has, and oneDNN then fails. The table's second column is the instruction set that oneDNN
reports, the third whether products differ in their last bits from those of this processor.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

PROCESSORS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX512_CORE": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX512_CORE_VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "this": {},
    "no-oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
"""what is set in the environment for each"""
WITHOUT_HALF_PRECISION = ("AVX2",)

PRODUCTS = """
import hashlib, numpy, tensorflow as tf
random = numpy.random.default_rng(0)
x, y = (tf.constant(random.normal(size=size), tf.float32) for size in ((64, 300), (300, 200)))
product = tf.function(tf.matmul)
made = b"".join(product(rows, y).numpy().tobytes() for rows in (x, x[:5], x[:1]))
print("digest", hashlib.sha256(made).hexdigest())
"""


def environment(name: str) -> dict[str, str]:
    """Of a process that is to compute as a processor does."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("ONEDNN_MAX_CPU_ISA", "ONEDNN_VERBOSE")
    }
    kept.pop("TF_ENABLE_ONEDNN_OPTS", None)
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **PROCESSORS[name]}


def seen(name: str) -> tuple[str, str]:
    """The processor as oneDNN names it, and a digest of some products."""
    given = {**environment(name), "ONEDNN_VERBOSE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PRODUCTS], env=given, capture_output=True, text=True, check=True
    )
    digest = re.search(r"^digest (\w+)$", result.stdout, re.M)
    isa = re.search(r"info,cpu,isa:(.*)$", result.stdout, re.M)
    assert digest, result.stdout
    return isa[1] if isa else "not used", digest[1]


def run(name: str, arguments: list[str]) -> tuple[bool, str, float]:
    """Whether the tests pass, pytest's last line, and the seconds it took."""
    mark = "numeric and not slow and not alone"
    if name in WITHOUT_HALF_PRECISION:
        mark += " and not half_precision"
    command = [sys.executable, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile"]
    start = time.monotonic()
    result = subprocess.run(
        [*command, "-m", mark, *arguments], env=environment(name), capture_output=True, text=True
    )
    if result.returncode:
        print(result.stdout[-20_000:], result.stderr[-2_000:], sep="\n", flush=True)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", result.stdout)
    return result.returncode == 0, ", ".join(counts[-3:]), time.monotonic() - start


def main(arguments: list[str]) -> int:
    """Run them, and print a table; 1 where some fail."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    names = arguments[:end] or list(PROCESSORS)
    if unknown := [name for name in names if name not in PROCESSORS]:
        print(f"processors are {', '.join(PROCESSORS)}; received {', '.join(unknown)}")
        return 2
    here = seen("this")[1]
    rows, passed = [], True
    for name in names:
        isa, digest = seen(name)
        well, counts, seconds = run(name, arguments[end + 1 :])
        passed &= well
        differs = "differ" if digest != here else "the same"
        rows.append((name, isa, differs, counts, f"{seconds:.0f} s"))
        print(*rows[-1], sep=" | ", flush=True)
    if len(rows) > 1:
        print(
            "\n| processor | oneDNN's | products | tests | time |\n| --- | --- | --- | --- | --- |"
        )
        for row in rows:
            print(f"| {' | '.join(row)} |")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
