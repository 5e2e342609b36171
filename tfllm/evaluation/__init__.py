"""How well a model foretells text."""

from tfllm.evaluation.perplexity import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
