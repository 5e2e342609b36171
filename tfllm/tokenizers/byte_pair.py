"""Byte-level byte-pair encoding, stored as the tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tfllm.tokenizers.json_tokenizer import JsonTokenizer
from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.byte_pair_graph import BytePairGraph

_log = logging.getLogger("tfllm")

# From left to right: an English contraction; a word with at most one other character before it
# (mostly the space); a digit by itself; punctuation with the line ends after it; line ends; the
# spaces before a word, but for the last; other spaces.
DEFAULT_SPLIT_PATTERN = (
    r"(?i:'(?:s|t|d|m|re|ve|ll))"
    r"|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


class BytePairTokenizer(JsonTokenizer):
    """Text to ids and back: byte-level BPE, so any text has ids and none is unknown.

    Args:
        tokenizer_json: the text of a tokenizer.json.
        end_token: the token that ends a document; default: the one of the usual names that the
            tokenizer has, or its only special token.

    Raises:
        ValueError: the text is not a tokenizer.json of a BPE model, or end_token is none of its
            tokens.
    """

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        split_pattern: str = DEFAULT_SPLIT_PATTERN,
        show_progress: bool = False,
    ) -> BytePairTokenizer:
        """Learn merges from texts. The same texts give the same tokenizer.

        Args:
            texts: any iterable of texts; read once, not kept.
            vocab_size: number of ids, the 256 bytes and the special tokens included.
            special_tokens: get the first ids; the first of them ends documents.
            split_pattern: a regular expression (Oniguruma's syntax) that cuts text into the pieces
                that no token reaches across.
            show_progress: draw a progress bar on standard error.

        Returns:
            The tokenizer. It is smaller than vocab_size where the text has too few different
            pieces; a log message says so.

        Raises:
            ValueError: vocab_size is too small, there is no special token, or split_pattern is no
                regular expression.
        """
        special_tokens = list(special_tokens)
        if not special_tokens or len(set(special_tokens)) < len(special_tokens):
            raise ValueError(
                "special_tokens must name at least one token (the first ends documents), each "
                f"once; received {special_tokens}"
            )
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} (256 bytes and {len(special_tokens)} special "
                f"token{'s' * (len(special_tokens) > 1)}); received {vocab_size}"
            )
        if isinstance(texts, str | bytes):
            raise ValueError("texts must be an iterable of texts; received one text, put it in []")
        try:
            splitter = pre_tokenizers.Split(Regex(split_pattern), "isolated")
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(
                f"split_pattern must be a regular expression; received {split_pattern!r}: {error}"
            ) from None
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
            [splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(t, special=True, normalized=False) for t in special_tokens],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=show_progress,
        )
        tokenizer.train_from_iterator(map(valid_text, texts), trainer)
        result = cls(tokenizer.to_str(), end_token=special_tokens[0])
        if result.vocab_size < vocab_size:
            _log.warning(
                "The text is too small for a vocabulary of %d tokens: there is nothing left to "
                "merge. The tokenizer has %d tokens.",
                vocab_size,
                result.vocab_size,
            )
        return result

    def _make_graph(self) -> BytePairGraph:
        from tfllm.tokenizers.byte_pair_graph import BytePairGraph
        from tfllm.tokenizers.specification import read_specification

        added = self._tokenizer.get_added_tokens_decoder()
        return BytePairGraph(read_specification(self._json, added))
