"""Options of text generation: one table, in which each field has its rule and type.

A field's row determines its check, here and in the graph; the input of the signature `generate`
with its dtype, default and neutral value; and the command-line option with its help.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfllm.config.reading import build, renamed, to_dict
from tfllm.config.rules import AT_LEAST_0, AT_LEAST_1, ConfigError, Interval, require

LENGTH_PENALTIES = Interval("must lie in [-5, 5]", -5, 5)
"""the length of a text raised to such a power still fits into a float32"""
NO_LIMIT = 2**31 - 1
"""value of `max_new_tokens` when `max_length`, or the model's context length, is the limit"""
_LARGEST_FLOAT32 = 3.4e38
OLD_NAMES = {"not_followed": "unsupported_settings"}
"""old name of an option to its present name"""
_TEXTS = ("stop", "unsupported_settings")


@dataclass(frozen=True)
class OptionRow:
    """What the table says about an option in addition to its type, default and help."""

    dtype: Literal["int32", "float32", "string"] | None
    """dtype of the option as an input of shape [batch] of a served model; None: it is not an input,
    and is the same for all prompts of a task or of a call"""
    neutral: Any
    """the value that has no effect; None: there is no such value"""
    interval: Interval | None
    of_task: bool
    """whether it is fixed for a task: another value requires building the task again"""
    of_sampling: bool
    """whether beam search does not use it, and accepts only its neutral value"""


def option(
    default: Any,
    interval: Interval | None = None,
    *,
    dtype: Literal["int32", "float32", "string"] | None = None,
    neutral: Any = None,
    of_task: bool = False,
    of_sampling: bool = False,
) -> Any:
    """A field of `GenerationConfig`; its help is the string beneath it."""
    row = OptionRow(dtype, neutral, interval, of_task, of_sampling)
    return dataclasses.field(default=default, metadata={"row": row})


def like(name: str, default: Any, interval: Interval | None = None) -> Any:
    """A field with the row of the same name in `GenerationConfig`, but another default."""
    row = option_rows()[name]
    return option(default, interval or row.interval, neutral=row.neutral)


@functools.cache
def option_rows(cls: type | None = None) -> dict[str, OptionRow]:
    """Maps the name of each option of `cls`, by default `GenerationConfig`, to its row."""
    fields = dataclasses.fields(cls or GenerationConfig)  # type: ignore[arg-type]
    return {field.name: field.metadata["row"] for field in fields}


def check_supported(unsupported_settings: tuple[str, ...]) -> None:
    """Refuse to generate if settings of a model folder that change the text are not supported.

    Args:
        unsupported_settings: the settings, such as "guidance_scale=2".

    Raises:
        ConfigError: there are such settings.
    """
    if unsupported_settings:
        asked = ", ".join(unsupported_settings)
        raise ConfigError(
            f"the model's folder asks for {asked}, which changes the text and is not supported. To "
            "generate without it, give unsupported_settings=() (on the command line "
            "unsupported_settings=none), or remove it from generation_config.json"
        )


def present_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their old names replaced by the present ones.

    Raises:
        ConfigError: an option is given by both.
    """
    found = dict(options)
    for old, new in OLD_NAMES.items():
        found = renamed(found, old, new)
    return found


def check_options(config: Any) -> None:
    """Check the fields of a dataclass of options against their rows, and turn lists into tuples.

    Raises:
        ConfigError: an option is out of range.
    """
    cls: Any = type(config)
    for name, row in option_rows(cls).items():
        value = getattr(config, name)
        if row.interval is not None:
            require(row.interval.holds(value), f"{name} {row.interval.rule}", value)
        if isinstance(value, list | tuple) and name not in _TEXTS:
            require(all(i >= 0 for i in value), f"{name} must be token ids (0 or above)", value)
            object.__setattr__(config, name, tuple(value))
    kept = tuple(text for text in config.unsupported_settings if text not in ("", "none"))
    object.__setattr__(config, "unsupported_settings", kept)


@dataclass(frozen=True)
class GenerationConfig:
    """Options of text generation: sampling, beam search, limits and stop strings.

    By default, text is decoded greedily, up to 64 tokens.

    Examples:
        >>> config = GenerationConfig(temperature=0.8, top_p=0.9)
        >>> config.max_new_tokens
        64
        >>> config.with_options({"top_k": 40}).top_k
        40
    """

    max_new_tokens: int = option(64, AT_LEAST_1, dtype="int32", neutral=1)
    """maximum number of tokens to generate"""
    temperature: float = option(
        0.0,
        Interval("must be a finite number, at least 0", 0, _LARGEST_FLOAT32),
        dtype="float32",
        neutral=0,
        of_sampling=True,
    )
    """sampling temperature; 0: greedy decoding, 1: the model's own distribution"""
    top_k: int = option(
        0, Interval("must be at least 0 (0: all tokens)", 0), dtype="int32", neutral=0
    )
    """sample from the k most likely tokens only; 0: from all"""
    top_p: float = option(
        1.0, Interval("must lie in (0, 1]", 0, 1, open_below=True), dtype="float32", neutral=1
    )
    """nucleus sampling: sample from the most likely tokens whose probabilities add up to top_p"""
    min_p: float = option(
        0.0, Interval("must lie in [0, 1)", 0, 1, open_above=True), dtype="float32", neutral=0
    )
    """exclude tokens less likely than min_p times the probability of the most likely one"""
    repetition_penalty: float = option(
        1.0,
        Interval("must be a finite number above 0", 0, _LARGEST_FLOAT32, open_below=True),
        dtype="float32",
        neutral=1,
        of_sampling=True,
    )
    """penalty on tokens that are already in the prompt or the text; 1: none"""
    seed: int = option(
        0, Interval("must lie in [0, 2147483648)", 0, 2**31 - 1), dtype="int32", neutral=0
    )
    """random seed of sampling; the same seed gives the same text"""
    stop: tuple[str, ...] = option((), dtype="string", neutral=(), of_sampling=True)
    """stop before this string; may be given several times"""
    prompt_lookup_tokens: int = option(
        0,
        Interval("must lie in [0, 16] (0: no lookup)", 0, 16),
        dtype="int32",
        neutral=0,
        of_sampling=True,
    )
    """prompt lookup decoding: number of tokens to draft from what followed the last tokens earlier
    in the prompt or the text, and to check in one step; 0: none. Faster where a text repeats its
    prompt, such as 8 for summaries, quotes and edits; the text is the same"""
    num_samples: int = option(1, AT_LEAST_1, neutral=1, of_sampling=True)
    """samples per prompt, drawn with the seeds seed, seed + 1, ..."""
    num_beams: int = option(1, AT_LEAST_1)
    """number of beams of beam search; 1: none. Needs temperature 0, repetition_penalty 1, no stop
    and one sample"""
    length_penalty: float = option(1.0, LENGTH_PENALTIES)
    """beam search: the score of a text is its log-probability divided by its number of tokens to
    this power"""
    no_repeat_ngram_size: int = option(0, AT_LEAST_0)
    """beam search: no n-gram of this size occurs twice, including the prompt; 0: no limit"""
    early_stopping: bool = option(False, of_task=True)
    """beam search: stop as soon as num_beams texts are complete, even if a better one could
    follow"""
    renormalize_logits: bool = option(False, of_task=True)
    """beam search: renormalize the probabilities over the tokens that are still allowed"""
    max_length: int = option(0, AT_LEAST_0, of_task=True)
    """maximum tokens of prompt and text together, used when max_new_tokens is 2147483647; 0: the
    model's context length"""
    min_new_tokens: int = option(0, AT_LEAST_0, of_task=True)
    """minimum number of generated tokens"""
    min_length: int = option(0, AT_LEAST_0, of_task=True)
    """minimum tokens of prompt and text together"""
    suppress_tokens: tuple[int, ...] = option((), of_task=True)
    """ids of tokens that are never generated"""
    begin_suppress_tokens: tuple[int, ...] = option((), of_task=True)
    """ids of tokens that are not generated first"""
    forced_eos_token_id: tuple[int, ...] = option((), of_task=True)
    """ids of tokens, one of which must be generated last if the text reaches its limit, even if it
    is suppressed"""
    unsupported_settings: tuple[str, ...] = option((), of_task=True)
    """settings in the model's folder that are not supported and would change the text: nothing is
    generated until this is () (on the command line: none)"""
    # The content of the generation_config.json that this was read from, so that its other keys are
    # saved again. It is not a setting: `dataclasses.replace` keeps it, but comparisons and the
    # command line ignore it.
    written: dataclasses.InitVar = None  # type: ignore[type-arg] # no type argument in Python 3.10

    def __post_init__(self, written: Mapping[str, Any] | None) -> None:
        object.__setattr__(self, "written", written)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, list):
            object.__setattr__(self, "stop", tuple(self.stop))
        check_options(self)
        if self.searches:
            for name, row in option_rows().items():
                require(
                    not row.of_sampling or getattr(self, name) == row.neutral,
                    f"{name} must be {row.neutral} where num_beams is above 1 or "
                    "no_repeat_ngram_size above 0, since beam search does not use it",
                    getattr(self, name),
                )
        require(all(self.stop), "a stop string must not be empty", self.stop)

    def with_options(self, options: Mapping[str, Any]) -> GenerationConfig:
        """A copy of these settings with some of them changed.

        If `max_length` is given without `max_new_tokens`, then `max_length` is the limit.

        Args:
            options: option names and their new values; strings are parsed.

        Raises:
            ConfigError: an option is unknown or out of range.
        """
        options = present_names(options)
        values = {**to_dict(self), **options}
        if options.get("max_length") and "max_new_tokens" not in options:
            values["max_new_tokens"] = NO_LIMIT
        return build(GenerationConfig, values)

    def check_supported(self) -> None:
        """Refuse to generate if the model's folder asks for settings that are not supported.

        Raises:
            ConfigError: there are such settings.
        """
        check_supported(self.unsupported_settings)

    @property
    def ends_at_max_length(self) -> bool:
        """Whether `max_length`, rather than `max_new_tokens`, is the limit."""
        return self.max_length > 0 and self.max_new_tokens == NO_LIMIT

    @property
    def searches(self) -> bool:
        """Whether to use beam search (with one beam if only repeated n-grams are excluded)."""
        return self.num_beams > 1 or self.no_repeat_ngram_size > 0
