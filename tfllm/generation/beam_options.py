"""The options of a beam search.

Shape letters: B rows.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfllm.config import ConfigError
from tfllm.config.generation import LENGTH_PENALTIES
from tfllm.config.rules import require
from tfllm.generation.token_rules import NO_RULES, TokenRules


@dataclasses.dataclass(frozen=True)
class BeamOptions:
    """Options of a beam search. The shapes of its results depend on `width` and `num_best`."""

    width: int = 4
    """number of unfinished texts of each row; 1 is greedy decoding, which stops at its first
    complete text"""
    num_best: int | None = None
    """number of texts in the result for each row, at most `width`; None means `width`"""
    num_wanted: tf.Tensor | None = None
    """int32 `[B]`: number of texts for which a row's search continues, 1 to `num_best`: fewer are
    found sooner, and the remaining ones may not be the best. None means all"""
    length_penalty: float | tf.Tensor = 1.0
    """the score is divided by the number of tokens to this power; 0 keeps the log-probability
    itself; values above 1 favour long texts. In [-5, 5]; or float32 `[B]`"""
    no_repeat_ngram_size: int = 0
    """no text contains a sequence of so many tokens twice, including the prompt that it continues;
    end tokens are exempt, and the token that an encoder-decoder's texts begin with does not count.
    0 allows all sequences"""
    token_rules: TokenRules = NO_RULES
    """rules for which tokens are allowed"""
    renormalize: bool = False
    """whether probabilities are normalized over the allowed tokens, rather than over all"""
    early_stopping: bool = False
    """whether to stop a row at its `width`-th complete text, even if a better one may follow"""

    def __post_init__(self) -> None:
        best = self.width if self.num_best is None else self.num_best
        object.__setattr__(self, "num_best", best)
        if self.width < 1:
            raise ConfigError(f"width must be at least 1; received {self.width}")
        if not 1 <= best <= self.width:
            raise ConfigError(
                f"num_best must be between 1 and the width, {self.width}; received {best}"
            )
        if self.no_repeat_ngram_size < 0:
            raise ConfigError(
                "no_repeat_ngram_size must be at least 0 (0: all n-grams are allowed); received "
                f"{self.no_repeat_ngram_size}"
            )
        if isinstance(self.length_penalty, (int, float)):
            holds = LENGTH_PENALTIES.holds(self.length_penalty)
            require(holds, f"length_penalty {LENGTH_PENALTIES.rule}", self.length_penalty)
