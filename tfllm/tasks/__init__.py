"""What a model is for, as functions from text to text."""

from tfllm.tasks.text_generation import TextGeneration, generate

__all__ = ["TextGeneration", "generate"]
