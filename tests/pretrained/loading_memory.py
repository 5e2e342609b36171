"""Peak memory of loading relative to the model's: PATH DTYPE pairs in, JSON list of ratios out.

It is a separate program, since a process that has done other things has a meaningless peak.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tfllm import pretrained


def status(key: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def ratio(path: str, dtype: str, kept: list[Any]) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = status("VmRSS")
    model = pretrained.load(path, dtype=dtype).model
    kept.append(model)  # its memory would be given to the next one
    tensors = [weight.value for weight in model.weights]
    size = sum(tensor.dtype.size * tensor.shape.num_elements() for tensor in tensors)
    return (status("VmHWM") - before) / size


def main() -> None:
    warm, *given = sys.argv[1:]
    pretrained.load(warm)
    kept: list[Any] = []
    pairs = zip(given[::2], given[1::2], strict=True)
    print(json.dumps([ratio(path, dtype, kept) for path, dtype in pairs]))


if __name__ == "__main__":
    main()
