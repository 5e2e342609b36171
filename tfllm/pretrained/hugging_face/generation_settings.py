"""Convert `generation_config.json` of a model folder to `GenerationConfig` and back.

Each key is either supported, or changes nothing, or is listed in `unsupported_settings`; then
nothing is generated until the user chooses to continue without it. A saved folder has all keys that
it was loaded with. `transformers` has no keys for some of our settings, and warns about others in
greedy search; these are stored under "generation" in `tfllm.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError, GenerationConfig, build
from tfllm.config.generation import NO_LIMIT

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# Other settings with the same name and meaning here.
_ALIKE = (
    *("max_new_tokens", "repetition_penalty", "num_beams", "length_penalty", "max_length"),
    *("no_repeat_ngram_size", "min_new_tokens", "min_length", "renormalize_logits"),
    *("suppress_tokens", "begin_suppress_tokens"),
)
_SUPPORTED = {
    *_ALIKE,
    *_SAMPLING,
    *("do_sample", "stop_strings", "bad_words_ids", "early_stopping"),
    # Handled by the tokenizer and the model.
    "forced_eos_token_id",
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
}
# The defaults of transformers for settings that are missing in the file.
_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}

_NO_MATTER = {
    # About the file, or for other programs.
    *("transformers_version", "_from_model_config", "_commit_hash", "_name_or_path", "model_type"),
    *("chat_format", "max_window_size", "generation_kwargs", "trust_remote_code"),
    # These affect how the same text is computed.
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache"),
    *("low_memory", "compile_config", "disable_compile", "continuous_batching_config"),
    *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "use_mtp"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
    *("assistant_ensemble_weight", "target_lookbehind", "prompt_lookup_num_tokens"),
    *("max_matching_ngram_size", "speculation_type", "remove_invalid_values"),
    # Outputs other than the text.
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate",),
}
_OF_SAMPLING = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}
_NEUTRAL: dict[str, Any] = {
    **_OF_SAMPLING,
    "diversity_penalty": 0.0,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "num_return_sequences": 1,
}
"""For unsupported keys, the value that changes nothing, if it is not one of `_says_nothing`."""


def _says_nothing(value: Any) -> bool:
    """Whether a key might as well be missing; 0 is a value."""
    return value is None or value is False or value in ([], {}, "")


_IN_CONFIG = {
    *_ALIKE,
    *("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "early_stopping"),
    *("do_sample", "exponential_decay_length_penalty"),
    *_NEUTRAL,
}
"""Generation keys that an old config.json may have."""


def unsupported_keys(
    written: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> list[str]:
    """The keys that change the text and are not supported, each as "key=value".

    Args:
        written: Contents of `generation_config.json`.
        more: Keys that are supported elsewhere but not here, and their values that change nothing.
            Defaults to none.
    """
    neutral = {**_NEUTRAL, **(more or {})}
    found = []
    for key, value in written.items():
        supported = (key in _SUPPORTED and key not in (more or {})) or key in _NO_MATTER
        if supported or _says_nothing(value) or (key in neutral and value == neutral[key]):
            continue
        if key in _OF_SAMPLING and not written.get("do_sample"):
            continue
        found.append(f"{key}={value!r}")
    if any(len(word) != 1 for word in _bad_words(written)):
        found.append("bad_words_ids=(words of several tokens)")
    if (forced := _ids(written, "forced_eos_token_id")) and not _forced_end(written):
        found.append(f"forced_eos_token_id={forced} (which suppress_tokens keeps from coming)")
    return found


def _bad_words(written: Mapping[str, Any]) -> list[Any]:
    words = written.get("bad_words_ids")
    if words is None:
        return []
    if not isinstance(words, list) or not all(isinstance(word, list) for word in words):
        raise ConfigError(f"bad_words_ids must be a list of lists of ids; received {words!r}")
    return words


def _ids(written: Mapping[str, Any], name: str) -> list[int]:
    """The ids of a key whose value is an id or a list of ids."""
    ids = written.get(name)
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(id_) is int and id_ >= 0 for id_ in found):
        raise ConfigError(f"{name} must be an id, or a list of ids; received {ids!r}")
    return found


def _forced_end(written: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids of which one ends a text at its length limit: those that are not suppressed, since
    transformers suppresses them even there. Bad words do not count as suppressed."""
    suppressed = _ids(written, "suppress_tokens")
    forced = _ids(written, "forced_eos_token_id")
    return tuple(id_ for id_ in forced if id_ not in suppressed)


def _suppressed(written: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that are never generated. Bad words may end a text, as in transformers."""
    ends = written.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    words = [word[0] for word in _bad_words(written) if len(word) == 1 and word[0] not in ends]
    return tuple(dict.fromkeys([*_ids(written, "suppress_tokens"), *words]))


def to_hugging_face(config: GenerationConfig | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries for `generation_config.json`, and the remaining ones for `tfllm.json`.

    Keys that the settings were read from are kept as long as they have the same meaning.
    """
    if config is None:
        return {}, {}
    stored = dict(vars(config)["written"] or {})
    values = dataclasses.asdict(config)
    is_same = stored and build(GenerationConfig, _read(stored, values)) == config
    if stored and not is_same:
        known = {*_SUPPORTED, *(entry.partition("=")[0] for entry in unsupported_keys(stored))}
        kept = {entry.partition("=")[0] for entry in config.unsupported_settings}
        stored = {key: v for key, v in stored.items() if key not in known or key in kept}
    default = GenerationConfig()
    del values["unsupported_settings"]
    written: dict[str, Any] = {"do_sample": config.temperature > 0}
    for name in (*_ALIKE, "early_stopping", "forced_eos_token_id"):
        value = values.pop(name)
        if value != getattr(default, name) and not (name == "max_new_tokens" and value == NO_LIMIT):
            written[name] = list(value) if isinstance(value, tuple) else value
    if config.temperature:
        written |= {name: values.pop(name) for name in _SAMPLING}
        if not config.min_p:
            del written["min_p"]
    else:
        del values["temperature"]
    return stored if is_same else {**stored, **written}, values


def search_settings_of(config: GenerationConfig | None) -> dict[str, Any]:
    """The search settings of an encoder-decoder in the file that settings were read from."""
    written = {} if config is None else vars(config)["written"] or {}
    return search_settings(written, is_config=False, is_marian=False)


def from_hugging_face(
    written: Mapping[str, Any], ours: Mapping[str, Any], where: str
) -> GenerationConfig:
    """Read the settings in the two files.

    Args:
        written: Contents of `generation_config.json`.
        ours: "generation" in `tfllm.json`; the other file takes precedence.
        where: Name of the folder, for errors.

    Raises:
        ConfigError: If a value is out of range.
    """
    try:
        config = build(GenerationConfig, _read(written, ours))
    except ConfigError as error:
        raise ConfigError(f"the generation settings in {where}: {error}") from None
    return dataclasses.replace(config, written=dict(written))


def _read(written: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in ours.items() if name not in _ALIKE}
    values |= {name: written[name] for name in _ALIKE if written.get(name) is not None}
    if "max_new_tokens" not in values and values.get("max_length"):
        values["max_new_tokens"] = NO_LIMIT
    values["suppress_tokens"] = _suppressed(written)
    values["forced_eos_token_id"] = _forced_end(written)
    values["early_stopping"] = written.get("early_stopping") is True
    if written.get("stop_strings"):
        values["stop"] = written["stop_strings"]
    if written.get("do_sample"):
        values |= {
            name: default if written.get(name) is None else written[name]
            for name, default in _DEFAULTS.items()
        }
    else:
        values["temperature"] = 0.0
    apart = _searches_otherwise(written)
    for entry in apart:
        values.pop(entry.partition("=")[0], None)
    values["unsupported_settings"] = (*unsupported_keys(written), *apart)
    return values


def _searches_otherwise(written: Mapping[str, Any]) -> list[str]:
    """The keys of a search that is combined with settings that our search does not support."""
    search = {"num_beams": 1, "no_repeat_ngram_size": 0}
    others = {"do_sample": False, "repetition_penalty": 1.0, "stop_strings": None}

    def given(neutral: Mapping[str, Any]) -> list[str]:
        asked = {name: written.get(name) for name in neutral}
        return [
            f"{name}={value!r}"
            for name, value in asked.items()
            if not _says_nothing(value) and value != neutral[name]
        ]

    besides = given(others)
    return [f"{entry} (with {', '.join(besides)})" for entry in given(search) if besides]


def search_settings(
    written: Mapping[str, Any], *, is_config: bool, is_marian: bool
) -> dict[str, Any]:
    """Read the search settings of an encoder-decoder, as fields of `SearchSettings`.

    Args:
        written: Contents of `generation_config.json`, or of config.json if there is no such file.
        is_config: Whether it is config.json, which has other keys, too.
        is_marian: Whether the model itself excludes bad words.
    """
    if is_config:
        written = {key: value for key, value in written.items() if key in _IN_CONFIG}
    names = (
        *("num_beams", "length_penalty", "no_repeat_ngram_size", "max_new_tokens"),
        *("min_new_tokens", "begin_suppress_tokens", "renormalize_logits"),
    )
    found = {name: written[name] for name in names if written.get(name) is not None}
    # These limits include the token that a text begins with.
    for old, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        limit = written.get(old)
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ConfigError(f"{old} must be a whole number, at least 0; received {limit!r}")
        if limit is not None and limit > 1:
            found.setdefault(new, limit - 1)
    if is_marian:
        written = {key: value for key, value in written.items() if key != "bad_words_ids"}
    if suppressed := _suppressed(written):
        found["suppress_tokens"] = list(suppressed)
    if forced := _forced_end(written):
        found["forced_eos_token_id"] = list(forced)
    if written.get("early_stopping") is True:
        found["early_stopping"] = True
    of_decoders = {"do_sample": False, "repetition_penalty": 1.0, "stop_strings": None}
    if refused := unsupported_keys(written, of_decoders):
        found["unsupported_settings"] = refused
    return found
