"""How good a model is: metrics with intervals, perplexity, and published tests."""

from tfllm.evaluation.evaluation import Evaluation, RecordEvaluation
from tfllm.evaluation.perplexity import Perplexity, perplexity

__all__ = ["Evaluation", "Perplexity", "RecordEvaluation", "perplexity"]
