"""The special tokens that ask a model for the text between two texts.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (2022): a text is cut
into prefix, middle and suffix, and rearranged so that the middle comes last.
"""

from __future__ import annotations

from typing import NamedTuple

from tfllm.tokenizers.base import Tokenizer

END = "<|endoftext|>"
SENTINELS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""The tokens that a new tokenizer gets."""
SUFFIX_FIRST = "fill_suffix_first"
"""Key in a tokenizer's settings: whether its model expects the suffix first."""

_KNOWN = (
    SENTINELS,  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder 2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)
_ENDS = (END, "<|fim_pad|>", "<fim_pad>", "<|repo_name|>", "<|file_sep|>", "<file_sep>")
"""Tokens with which these models end a file."""


class MiddleTokens(NamedTuple):
    """Ids of the tokens that mark the beginning of each part."""

    prefix: int
    suffix: int
    middle: int

    def written(self, prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
        """The parts in the order prefix, suffix, middle (PSM), which other models expect."""
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle, *middle]

    def written_suffix_first(
        self, prefix: list[int], middle: list[int], suffix: list[int]
    ) -> list[int]:
        """The parts in the order suffix, prefix, middle (SPM).

        The form is the one that begins as PSM does, so that a model learns from both: the prefix
        and the middle are one text (the paper's appendix D)."""
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix, *middle]


def middle_tokens(tokenizer: Tokenizer) -> MiddleTokens | None:
    """The tokenizer's fill-in-the-middle tokens under any known name; None if it has none."""
    for names in _KNOWN:
        ids = [tokenizer.token_id(name) for name in names]
        known = [i for i in ids if i is not None]
        if len(known) == len(names):
            return MiddleTokens(*known)
    return None


def require_middle_tokens(tokenizer: Tokenizer) -> MiddleTokens:
    """Like `middle_tokens`, but raises an error if there are none.

    Raises:
        ValueError: If the tokenizer has no such tokens.
    """
    found = middle_tokens(tokenizer)
    if found is None:
        raise ValueError(
            "to fill in the middle, the tokenizer must have tokens that mark prefix, suffix and "
            f"middle, such as {', '.join(SENTINELS)}; this one has none. Let prepare train a new "
            "tokenizer, or use the tokenizer of a model that has them"
        )
    return found


def code_end_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids, in addition to the tokenizer's end tokens, with which code models end a file."""
    names = [*_ENDS, *(name for known in _KNOWN for name in known)]
    return [i for name in names if (i := tokenizer.token_id(name)) is not None]
