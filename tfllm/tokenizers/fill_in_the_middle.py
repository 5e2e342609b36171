"""The special tokens with which a model is asked for what stands between two texts.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022): a text is cut
into prefix, middle and suffix, and written so that the middle comes last.
"""

from __future__ import annotations

from typing import NamedTuple

from tfllm.tokenizers.base import Tokenizer

END = "<|endoftext|>"
SENTINELS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""those that a new tokenizer gets"""
SUFFIX_FIRST = "fill_suffix_first"
"""in a tokenizer's settings: whether its model is to be asked suffix first"""

_KNOWN = (
    SENTINELS,  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder 2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
_ENDS = (END, "<|fim_pad|>", "<fim_pad>", "<|repo_name|>", "<|file_sep|>", "<file_sep>")
"""what these models write where a file's text is over"""


class MiddleTokens(NamedTuple):
    """Ids of the tokens that stand before each part."""

    prefix: int
    suffix: int
    middle: int

    def written(self, prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
        """Prefix, suffix, middle (PSM), which is how others' models are asked."""
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle, *middle]

    def written_suffix_first(
        self, prefix: list[int], middle: list[int], suffix: list[int]
    ) -> list[int]:
        """Suffix, prefix, middle (SPM), in the form that shares its start with PSM, so that a model
        learns from both: the prefix and the middle are one text (the paper's appendix D)."""
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix, *middle]


def middle_tokens(tokenizer: Tokenizer) -> MiddleTokens | None:
    """The tokenizer's tokens for this, under any of the names that models have; None without."""
    for names in _KNOWN:
        ids = [tokenizer.token_id(name) for name in names]
        known = [i for i in ids if i is not None]
        if len(known) == len(names):
            return MiddleTokens(*known)
    return None


def require_middle_tokens(tokenizer: Tokenizer) -> MiddleTokens:
    """The same.

    Raises:
        ValueError: the tokenizer has none.
    """
    found = middle_tokens(tokenizer)
    if found is None:
        raise ValueError(
            "to fill in the middle, the tokenizer must have tokens that mark prefix, suffix and "
            f"middle, such as {', '.join(SENTINELS)}; it has none. Let prepare train a new one, or "
            "take the tokenizer of a model that has them"
        )
    return found


def code_end_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids beyond the tokenizer's own end tokens at which code is over, as models write it."""
    names = [*_ENDS, *(name for known in _KNOWN for name in known)]
    return [i for name in names if (i := tokenizer.token_id(name)) is not None]
