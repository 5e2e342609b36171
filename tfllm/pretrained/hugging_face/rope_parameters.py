"""Read and write the base and scaling of the rotary frequencies in config.json.

`transformers` writes them to `rope_parameters` from version 5 on; before, the base was in
`rope_theta` and the scaling in `rope_scaling`. Both forms are read, and both are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfllm.config import ConfigError, ModelConfig, RopeScaling, build, field_types

_SCALINGS = ("default", "linear", "llama3")
_PLACES = ("rope_parameters", "rope_scaling")


def read_rope(
    values: Mapping[str, Any], default_theta: float, where: str
) -> tuple[float, RopeScaling | None]:
    """Read the base and the scaling that config.json describes.

    Args:
        values: Contents of the file.
        default_theta: Base if the file has none.
        where: Name of the file, for errors.

    Raises:
        ConfigError: If a kind of scaling is not supported, a key is missing or unknown, or the two
            forms contradict each other.
    """
    found = {
        place: _read(values[place], place, values, default_theta, where)
        for place in _PLACES
        if values.get(place)
    }
    if not found:
        return _first_given(values.get("rope_theta"), default_theta), None
    first, *others = found.values()
    if any(other != first for other in others):
        raise ConfigError(
            f"{where}: rope_parameters and rope_scaling are two forms of the same and must agree; "
            f"received {values['rope_parameters']} and {values['rope_scaling']}"
        )
    return first


def _read(
    rope: Any, place: str, values: Mapping[str, Any], default_theta: float, where: str
) -> tuple[float, RopeScaling | None]:
    if not isinstance(rope, Mapping):
        raise ConfigError(f"{where}: {place} must be a JSON object; received {rope!r}")
    rope = {key: value for key, value in rope.items() if value is not None}
    theta = _first_given(rope.pop("rope_theta", None), values.get("rope_theta"), default_theta)
    kinds = [rope.pop(key) for key in ("rope_type", "type") if key in rope] or ["default"]
    kind = kinds[0]
    if kind not in _SCALINGS or kinds[-1] != kind:
        raise ConfigError(
            f"{where}: {place}.rope_type must be one of {', '.join(_SCALINGS)}; received "
            f"{', '.join(map(repr, kinds))}. Another one would rotate by other angles, so the "
            "model is not loaded"
        )
    if rope.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"{where}: {place}.partial_rotary_factor is only supported with the value 1.0; "
            f"received {values[place]['partial_rotary_factor']!r}"
        )
    if kind == "llama3":
        _first_context(rope, values, where)
    known = [name for name in field_types(RopeScaling) if name != "rope_type"]
    unknown = {key: value for key, value in rope.items() if key not in known}
    if unknown:
        raise ConfigError(
            f"{where}: {place} may have rope_type, rope_theta, {', '.join(known)}; received "
            f"{unknown}. It may change what the model computes, so the model is not loaded"
        )
    if kind == "default":
        return theta, None
    if kind == "linear":  # transformers ignores other keys
        rope = {key: value for key, value in rope.items() if key == "factor"}
    try:
        return theta, build(RopeScaling, {"rope_type": kind, **rope}, where=place)
    except ConfigError as error:
        raise ConfigError(f"{where}: {place}: {error}") from None


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _first_context(rope: dict[str, Any], values: Mapping[str, Any], where: str) -> None:
    """Read a key that may also be outside, where transformers prefers it to the one inside."""
    name = "original_max_position_embeddings"
    outside = values.get(name)
    if outside is None:
        return
    if rope.setdefault(name, outside) != outside:
        raise ConfigError(
            f"{where}: {name} is given in two places, which must agree; "
            f"received {rope[name]} and {outside}"
        )


def written_rope(config: ModelConfig) -> dict[str, Any]:
    """The entries of config.json for the rotary frequencies, in the new form and the old one."""
    scaling = None
    if config.rope_scaling is not None:
        given = {name: getattr(config.rope_scaling, name) for name in field_types(RopeScaling)}
        scaling = {name: value for name, value in given.items() if value is not None}
    return {
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": config.rope_theta,
        },
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
    }
