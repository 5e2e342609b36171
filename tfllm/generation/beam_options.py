"""How a beam search goes.

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
    """How a beam search goes. The shapes of its results depend on `width` and `num_best`."""

    width: int = 4
    """unfinished texts of each row; 1 is greedy decoding, which stops at its first complete text"""
    num_best: int | None = None
    """texts that a result has of each row, at most `width`; None: `width`"""
    num_wanted: tf.Tensor | None = None
    """int32 `[B]`: those that a row's search goes on for, 1 to `num_best`: fewer are found sooner,
    and the others may not be the best there are. None: all"""
    length_penalty: float | tf.Tensor = 1.0
    """a score is divided by the number of tokens to this power; 0: the log-probability itself;
    above 1 favours long texts. In [-5, 5]; or float32 `[B]`"""
    no_repeat_ngram_size: int = 0
    """no text has a sequence of so many tokens twice, the prompt that it continues included; end
    tokens are free, and the token that an encoder-decoder's texts begin with is none of theirs.
    0: all sequences are allowed"""
    token_rules: TokenRules = NO_RULES
    """which tokens may come"""
    renormalize: bool = False
    """probabilities are of the tokens that may come, and not of all"""
    early_stopping: bool = False
    """stop a row at its `width`-th complete text, whether or not a better one can follow"""

    def __post_init__(self) -> None:
        best = self.width if self.num_best is None else self.num_best
        object.__setattr__(self, "num_best", best)
        if self.width < 1:
            raise ConfigError(f"width must be at least 1; received {self.width}")
        if not 1 <= best <= self.width:
            raise ConfigError(
                f"num_best must lie between 1 and the width, {self.width}; received {best}"
            )
        if self.no_repeat_ngram_size < 0:
            raise ConfigError(
                "no_repeat_ngram_size must be at least 0 (0: all n-grams are allowed); received "
                f"{self.no_repeat_ngram_size}"
            )
        if isinstance(self.length_penalty, (int, float)):
            holds = LENGTH_PENALTIES.holds(self.length_penalty)
            require(holds, f"length_penalty {LENGTH_PENALTIES.rule}", self.length_penalty)
