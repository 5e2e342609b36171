"""Tokenizers: text to token ids and back, in Python and inside a TensorFlow graph.

Importing this package does not import TensorFlow; calling a tokenizer's `graph()` does.
"""

from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.kinds.byte_pair import DEFAULT_SPLIT_PATTERN, BytePairTokenizer
from tfllm.tokenizers.kinds.marian import MarianTokenizer
from tfllm.tokenizers.kinds.metaspace import MetaspaceTokenizer
from tfllm.tokenizers.kinds.sentence_piece import SentencePieceTokenizer
from tfllm.tokenizers.kinds.unigram_json import UnigramTokenizer
from tfllm.tokenizers.kinds.word_piece import WordPiece

__all__ = [
    "DEFAULT_SPLIT_PATTERN",
    "BytePairTokenizer",
    "MarianTokenizer",
    "MetaspaceTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPiece",
]
