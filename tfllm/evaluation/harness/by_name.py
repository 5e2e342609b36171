"""The harnesses by name, as the command line selects them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tfllm.config import ConfigError, unknown_name
from tfllm.data.reading.table_records import Source
from tfllm.evaluation.harness.exact_match import exact_match
from tfllm.evaluation.harness.harness import HarnessResult
from tfllm.evaluation.harness.humaneval import humaneval
from tfllm.evaluation.harness.multiple_choice import multiple_choice
from tfllm.evaluation.harness.rolling_perplexity import rolling_perplexity

HARNESSES: dict[str, Callable[..., HarnessResult]] = {
    "multiple_choice": multiple_choice,
    "exact_match": exact_match,
    "humaneval": humaneval,
    "rolling_perplexity": rolling_perplexity,
}
_OF_GENERATION = ("temperature",)
"""settings of `GenerationConfig` that a harness passes on, which are not parameters of its own"""


def run_harness(name: str, model: Any, data: Source, **settings: Any) -> HarnessResult:
    """Run a harness.

    Args:
        name: a key of `HARNESSES`.
        model: the model to evaluate.
        data: files of records.
        settings: keyword arguments of the harness.

    Returns:
        The result.

    Raises:
        ConfigError: there is no such harness, or it has no such setting.
        ValueError, OSError, RuntimeError: as in the harness.
    """
    if name not in HARNESSES:
        raise ConfigError(unknown_name("harness", name, HARNESSES))
    check_settings(name, settings)
    return HARNESSES[name](model, data, **settings)


def check_settings(name: str, settings: dict[str, Any]) -> None:
    """Check that a harness has the given settings, before a model is loaded.

    Raises:
        ConfigError: it does not have one of them.
    """
    parameters = inspect.signature(HARNESSES[name]).parameters
    known = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known += _OF_GENERATION
    for setting in settings:
        if setting not in known:
            raise ConfigError(
                f"the harness {name} has no setting {setting}; it has {', '.join(known)}"
            )
