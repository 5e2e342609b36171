"""Count the words from which a WordPiece vocabulary is learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from tokenizers import Tokenizer

from tfllm.tokenizers.token_bytes import valid_text

_AT_ONCE = 1000
"""Number of copies of a word that the library gets as one text."""


def counted_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the words of texts, as a tokenizer normalizes and splits them."""
    normalize = tokenizer.normalizer.normalize_str  # type: ignore[union-attr]
    cut = tokenizer.pre_tokenizer.pre_tokenize_str  # type: ignore[union-attr]
    return Counter(word for text in texts for word, _ in cut(normalize(valid_text(text))))


def _split(word: str, prefix: str) -> list[str]:
    """The characters of a word as tokens."""
    return [word[0], *(prefix + character for character in word[1:])]


def frequent_letters(words: Counter[str], most: int, prefix: str) -> list[str]:
    """The tokens of one character that all words are made of, in alphabetical order.

    Args:
        words: Number of occurrences of each word.
        most: Maximum number of tokens; the rarest are left out.
        prefix: Prefix of the tokens that continue a word.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in _split(word, prefix):
            counts[letter] += count
    kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[: max(most, 1)]
    return sorted(kept, key=lambda letter: (len(letter), letter))


def repeated(words: Counter[str], letters: Collection[str], prefix: str) -> Iterator[str]:
    """Repeat each word as often as it was counted, but leave out words with other letters."""
    for word, count in words.items():
        if all(letter in letters for letter in _split(word, prefix)):
            for begin in range(0, count, _AT_ONCE):
                yield " ".join([word] * min(_AT_ONCE, count - begin))
