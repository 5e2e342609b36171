"""Published benchmarks of language models: multiple choice, exact match, programs, perplexity."""

from tfllm.evaluation.harness.by_name import HARNESSES, run_harness
from tfllm.evaluation.harness.exact_match import exact_match
from tfllm.evaluation.harness.harness import HarnessResult
from tfllm.evaluation.harness.humaneval import humaneval
from tfllm.evaluation.harness.multiple_choice import multiple_choice
from tfllm.evaluation.harness.rolling_perplexity import rolling_perplexity

__all__ = [
    "HARNESSES",
    "HarnessResult",
    "exact_match",
    "humaneval",
    "multiple_choice",
    "rolling_perplexity",
    "run_harness",
]
