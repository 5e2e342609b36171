"""Tokenizers: text to token ids and back, in Python and inside a TensorFlow graph.

Importing this does not import TensorFlow; `BytePairTokenizer.graph()` does.
"""

from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.byte_pair import DEFAULT_SPLIT_PATTERN, BytePairTokenizer

__all__ = ["DEFAULT_SPLIT_PATTERN", "BytePairTokenizer", "Tokenizer"]
