"""Byte-level byte-pair encoding, stored as the tokenizer.json of the `tokenizers` library."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from tfllm.tokenizers.kinds.byte_pair_json import BYTE_PAIR_RULES
from tfllm.tokenizers.kinds.json_tokenizer import JsonTokenizer
from tfllm.tokenizers.token_bytes import valid_text

if TYPE_CHECKING:
    from tfllm.tokenizers.graph.byte_pair_graph import BytePairGraph

_log = logging.getLogger("tfllm")

# From left to right: an English contraction; a word with at most one other character before it
# (usually a space); a single digit; punctuation and the line ends after it; line ends; the spaces
# before a word except the last one; other spaces.
DEFAULT_SPLIT_PATTERN = (
    r"(?i:'(?:s|t|d|m|re|ve|ll))"
    r"|[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


class SplitRules(NamedTuple):
    """What a new tokenizer does to text before it applies merges.

    Args:
        pattern: Regular expression that cuts text into pieces; no token crosses their borders.
        composed: Whether the text is first brought to Unicode's form NFC.
    """

    pattern: str
    composed: bool = False


SPLITS: dict[str, SplitRules] = {
    "tfllm": SplitRules(DEFAULT_SPLIT_PATTERN),
    # AutoTokenizer of transformers 5 replaces the rules in a Qwen 2 folder with these.
    "qwen2": SplitRules(BYTE_PAIR_RULES["qwen2"].pattern, composed=True),
}
"""The choices of `PrepareConfig.split`."""


class BytePairTokenizer(JsonTokenizer):
    """Byte-level BPE tokenizer: every text can be encoded, and no token is unknown.

    For arguments and errors see `JsonTokenizer`.

    Examples:

    >>> import tfllm
    >>> tokenizer = tfllm.BytePairTokenizer.train(["to be or not to be"] * 9, vocab_size=260)
    >>> tokenizer.vocab_size
    260
    >>> tokenizer.decode(tokenizer.encode("to be"))
    'to be'
    """

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        split: Literal["tfllm", "qwen2"] = "tfllm",
        split_pattern: str | None = None,
        show_progress: bool = False,
    ) -> BytePairTokenizer:
        """Learn merges from texts. The same texts always give the same tokenizer.

        Args:
            texts: Iterable of texts, which is read once and not kept.
            vocab_size: Number of ids, including the 256 bytes and the special tokens.
            special_tokens: Special tokens, which get the first ids; the first of them ends
                documents. Defaults to ("<|endoftext|>",).
            split: How text is prepared before it is cut into tokens: "tfllm", or "qwen2" as in that
                family, which also brings it to Unicode's form NFC. Defaults to "tfllm".
            split_pattern: Regular expression (Oniguruma syntax) that cuts text into pieces; no
                token crosses their borders. Defaults to the pattern of `split`.
            show_progress: Whether to draw a progress bar on standard error. Defaults to False.

        Returns:
            The tokenizer. It has fewer than vocab_size tokens if the texts have too few different
            pieces; a log message says so.

        Raises:
            ValueError: If vocab_size is too small, there is no special token, split is unknown, or
                split_pattern is not a regular expression.
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
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {split!r}")
        if split_pattern is None:
            split_pattern = SPLITS[split].pattern
        try:
            splitter = _pre_tokenizer(split_pattern)
        except Exception as error:  # the library raises a bare Exception
            raise ValueError(
                f"split_pattern must be a regular expression; received {split_pattern!r}: {error}"
            ) from None
        tokenizer = Tokenizer(models.BPE())
        if SPLITS[split].composed:
            tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
        tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
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

    @property
    def follows_qwen2(self) -> bool:
        """Whether everything but the vocabulary and the added tokens is as in Qwen 2."""
        content = json.loads(self._json)
        model = {name: value for name, value in content["model"].items() if value}
        if not {*model} <= {"type", "vocab", "merges"}:
            return False
        usual = Tokenizer(models.BPE())
        usual.normalizer = normalizers.NFC()  # type: ignore[assignment]
        usual.pre_tokenizer = _pre_tokenizer(SPLITS["qwen2"].pattern)  # type: ignore[assignment]
        own = json.loads(usual.to_str())
        parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
        if (parts["decoder"] or {}).get("type") != "ByteLevel":
            return False
        found = (_plain(parts["normalizer"]), _plain(parts["pre_tokenizer"]))
        return found == (_plain(own["normalizer"]), _plain(own["pre_tokenizer"]))

    def _make_graph(self) -> BytePairGraph:
        from tfllm.tokenizers.graph.byte_pair_graph import BytePairGraph
        from tfllm.tokenizers.specification.byte_pair_specification import read_specification

        return BytePairGraph(read_specification(self._json, self._added_tokens))


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cut text by a pattern and write its bytes in the alphabet of byte-level BPE."""
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([splitter, bytes_])  # type: ignore[list-item]


def _plain(component: Any) -> Any:
    """A component of tokenizer.json without the parts that do not affect ids."""
    if isinstance(component, dict):
        inner = component.get("normalizers")
        if inner is not None and len(inner) == 1:
            return _plain(inner[0])
        return {key: _plain(value) for key, value in component.items() if key != "trim_offsets"}
    return [_plain(part) for part in component] if isinstance(component, list) else component
