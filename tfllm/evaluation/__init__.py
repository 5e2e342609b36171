"""Evaluation of models: metrics with confidence intervals, perplexity, and published benchmarks."""

from tfllm.evaluation.evaluation import Evaluation, RecordEvaluation
from tfllm.evaluation.perplexity import Perplexity, perplexity

__all__ = ["Evaluation", "Perplexity", "RecordEvaluation", "perplexity"]
