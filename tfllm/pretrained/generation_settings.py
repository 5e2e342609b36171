"""`generation_config.json` of a model folder to `GenerationConfig` and back.

`transformers` has no place for some of our settings, and warns about others where the likeliest
token is taken; those stand under "generation" in `tfllm.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError, GenerationConfig, build

_ALWAYS = ("max_new_tokens", "repetition_penalty")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")

# What transformers takes for a setting that the file does not have.
_DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}


def to_hugging_face(config: GenerationConfig | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `generation_config.json` says of these settings, and what is left for `tfllm.json`."""
    if config is None:
        return {}, {}
    values = dataclasses.asdict(config)
    names = _ALWAYS + (_SAMPLING if config.temperature else ())
    written = {"do_sample": config.temperature > 0, **{name: values.pop(name) for name in names}}
    if not config.temperature:
        del values["temperature"]
    if not config.min_p:
        written.pop("min_p", None)
    return written, values


def from_hugging_face(
    written: Mapping[str, Any], ours: Mapping[str, Any], where: str
) -> GenerationConfig:
    """The settings that the two files hold.

    Args:
        written: `generation_config.json`.
        ours: "generation" in `tfllm.json`, which does not overrule the other.
        where: the folder, for errors.

    Raises:
        ConfigError: a value that is out of range.
    """
    values = {name: value for name, value in ours.items() if name not in _ALWAYS}
    values |= {name: written[name] for name in _ALWAYS if written.get(name) is not None}
    if written.get("do_sample"):
        values |= {
            name: default if written.get(name) is None else written[name]
            for name, default in _DEFAULTS.items()
        }
    else:
        values["temperature"] = 0.0
    try:
        return build(GenerationConfig, values)
    except ConfigError as error:
        raise ConfigError(f"the generation settings in {where}: {error}") from None
