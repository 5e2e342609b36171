"""How text is drawn from a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfllm.config.reading import build, to_dict
from tfllm.config.rules import ConfigError, check, require

MOST_LENGTH_PENALTY = 5
"""a text's length to this power is still a float32"""
NO_LIMIT = 2**31 - 1
"""`max_new_tokens` where `max_length`, or the model's context, is the limit"""
LENGTH_PENALTIES = f"[-{MOST_LENGTH_PENALTY}, {MOST_LENGTH_PENALTY}]"


FIXED_OPTIONS = (
    *("early_stopping", "renormalize_logits", "max_length", "min_new_tokens", "min_length"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "not_followed"),
)
"""fields of `GenerationConfig` that are the same for all prompts of a task"""
_IDS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")


def check_followed(not_followed: tuple[str, ...]) -> None:
    """Refuse to generate while a folder's settings that change the text are not followed.

    Raises:
        ConfigError: there are such settings.
    """
    if not_followed:
        raise ConfigError(
            f"the model's folder asks for {', '.join(not_followed)}, which changes the text and is "
            "not followed. To generate without it, give not_followed=() (on the command line "
            "not_followed=none), or take it out of generation_config.json"
        )


@dataclass(frozen=True)
class GenerationConfig:
    """How text is drawn from a model."""

    max_new_tokens: int = 64
    """the most tokens that are generated"""
    temperature: float = 0.0
    """0: always the likeliest token; 1: sample from the model's own distribution"""
    top_k: int = 0
    """sample from the k likeliest tokens only; 0: all"""
    top_p: float = 1.0
    """sample from the likeliest tokens that together have this probability"""
    min_p: float = 0.0
    """drop tokens less likely than this share of the likeliest token's probability"""
    repetition_penalty: float = 1.0
    """divides the scores of tokens that the prompt or the text already has; 1: none"""
    seed: int = 0
    """of the sampling; the same seed gives the same text"""
    stop: tuple[str, ...] = ()
    """the text ends before the first of these strings"""
    num_samples: int = 1
    """samples for each prompt, with the seeds seed, seed + 1, ..."""
    num_beams: int = 1
    """search the likeliest whole text with so many unfinished ones (beam search); needs
    temperature 0, repetition_penalty 1, no stop and one sample"""
    length_penalty: float = 1.0
    """of the beams: a text's score is its log-probability by its number of tokens to this power"""
    no_repeat_ngram_size: int = 0
    """of the beams: no sequence of so many tokens comes twice, the prompt included; 0: it may"""
    early_stopping: bool = False
    """of the beams: stop at the num_beams-th complete text, whether or not a better can follow"""
    renormalize_logits: bool = False
    """of the beams: the probabilities of the tokens that may come add up to 1, and not of all"""
    max_length: int = 0
    """the most tokens of the prompt and the text together, where max_new_tokens is 2147483647; 0:
    the model's context"""
    min_new_tokens: int = 0
    """the text does not end before it has so many tokens"""
    min_length: int = 0
    """the text does not end before the prompt and it together have so many tokens"""
    suppress_tokens: tuple[int, ...] = ()
    """ids of tokens that are never generated"""
    begin_suppress_tokens: tuple[int, ...] = ()
    """ids of tokens that no text begins with"""
    forced_eos_token_id: tuple[int, ...] = ()
    """the last token that a text may have, at its limit, is one of these ids, suppressed or not"""
    not_followed: tuple[str, ...] = ()
    """settings that the model's folder asks for and that are not followed: nothing is generated
    until this is () (on the command line: none)"""
    # The generation_config.json that it was read from, whose other keys are saved again. It is no
    # setting: `dataclasses.replace` keeps it, and neither a comparison nor a command line sees it.
    written: dataclasses.InitVar = None  # type: ignore[type-arg] # of which 3.10 knows no argument

    def __post_init__(self, written: Mapping[str, Any] | None) -> None:
        object.__setattr__(self, "written", written)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        kept = tuple(text for text in self.not_followed if text not in ("", "none"))
        object.__setattr__(self, "not_followed", kept)
        for name in _IDS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check(self, "must be at least 1", "max_new_tokens", "num_samples")
        require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature must be a finite number, at least 0",
            self.temperature,
        )
        require(self.top_k >= 0, "top_k must be at least 0 (0: all tokens)", self.top_k)
        require(0 < self.top_p <= 1, "top_p must lie in (0, 1]", self.top_p)
        check(self, "must lie in [0, 1)", "min_p")
        require(
            math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty must be a finite number above 0",
            self.repetition_penalty,
        )
        require(0 <= self.seed < 2**31, "seed must lie in [0, 2147483648)", self.seed)
        check(self, "must be at least 1", "num_beams")
        at_least_0 = ("no_repeat_ngram_size", "max_length", "min_new_tokens", "min_length")
        check(self, "must be at least 0", *at_least_0)
        for name in _IDS:
            ids = getattr(self, name)
            require(all(i >= 0 for i in ids), f"{name} must be ids of tokens", ids)
        require(
            abs(self.length_penalty) <= MOST_LENGTH_PENALTY,
            f"length_penalty must lie in {LENGTH_PENALTIES}",
            self.length_penalty,
        )
        if self.searches:
            for name, neutral in (
                ("temperature", 0), ("repetition_penalty", 1), ("stop", ()), ("num_samples", 1),
            ):  # fmt: skip
                require(
                    getattr(self, name) == neutral,
                    f"{name} must be {neutral} where num_beams is above 1 or no_repeat_ngram_size "
                    "above 0, as the likeliest text is searched",
                    getattr(self, name),
                )
        require(all(self.stop), "a stop string must not be empty", self.stop)

    def with_options(self, options: Mapping[str, Any]) -> GenerationConfig:
        """These settings, with some of them changed.

        A `max_length` that is given without `max_new_tokens` is the limit.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        values = {**to_dict(self), **options}
        if options.get("max_length") and "max_new_tokens" not in options:
            values["max_new_tokens"] = NO_LIMIT
        return build(GenerationConfig, values)

    def check_followed(self) -> None:
        """Refuse to generate where the model's folder asks for what is not followed.

        Raises:
            ConfigError: it does.
        """
        check_followed(self.not_followed)

    @property
    def ends_at_max_length(self) -> bool:
        """Whether `max_length` is the limit, and not `max_new_tokens`."""
        return self.max_length > 0 and self.max_new_tokens == NO_LIMIT

    @property
    def searches(self) -> bool:
        """Whether it is beam search (of one beam, with sequences that may not repeat)."""
        return self.num_beams > 1 or self.no_repeat_ngram_size > 0
