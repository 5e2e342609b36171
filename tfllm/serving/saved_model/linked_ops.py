"""The ops that are linked into TensorFlow Serving 2.20, read from the list in this folder.

TensorFlow Serving has the ops of TensorFlow and TensorFlow Text and the inference ops of TensorFlow
Decision Forests; it cannot load an op of any other library. The script
tests/serving/record_linked_ops.py recorded the list from the wheels of those releases.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

# Serving 2.16 to 2.19 link TensorFlow Text 2.12.1, which lacks these.
NOT_IN_TEXT_2_12 = frozenset(
    {"TFText>RoundRobinTrim", "TFText>RoundRobinGenerateMasks", "TFText>Utf8Binarize"}
)


@dataclass(frozen=True)
class LinkedOps:
    """The ops that are linked, and what is known of each."""

    attributes: dict[str, frozenset[str]]
    """op name to the names of its attributes"""
    without_cpu_kernel: frozenset[str]
    """ops that are registered but that no CPU kernel implements"""
    sources: dict[str, str]
    """op name to its library and the library's version"""


@functools.cache
def linked_ops() -> LinkedOps:
    """The ops of TensorFlow Serving 2.20."""
    text = resources.files(__package__).joinpath("linked_ops_2_20.txt").read_text("utf-8")
    attributes, missing, sources = {}, set(), {}
    source = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            source = line.strip("[]")
            continue
        name, *names = line.split()
        if name.startswith("-"):
            name = name[1:]
            missing.add(name)
        attributes[name] = frozenset(names)
        sources[name] = source
    return LinkedOps(attributes, frozenset(missing), sources)
