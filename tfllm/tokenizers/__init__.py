"""Tokenizers: text to token ids and back, in Python and inside a TensorFlow graph.

Importing this does not import TensorFlow; `graph()` of a tokenizer does.
"""

from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.byte_pair import DEFAULT_SPLIT_PATTERN, BytePairTokenizer
from tfllm.tokenizers.marian import MarianTokenizer
from tfllm.tokenizers.metaspace import MetaspaceTokenizer
from tfllm.tokenizers.sentence_piece import SentencePieceTokenizer
from tfllm.tokenizers.unigram_json import UnigramTokenizer
from tfllm.tokenizers.word_piece import WordPiece

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
