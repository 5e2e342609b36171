"""What settings must be: the checks of their dataclasses, and the error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


def require(rule_holds: bool, rule: str, received: Any) -> None:
    """Raise ConfigError, with the rule and the value received, unless the rule holds."""
    if not rule_holds:
        raise ConfigError(f"{rule}; received {received!r}")


_RULES: dict[str, Callable[[Any], bool]] = {
    "must be at least 1": lambda value: value >= 1,
    "must be at least 0": lambda value: value >= 0,
    "must not be negative": lambda value: value >= 0,
    "must be positive": lambda value: value > 0,
    "must lie in [0, 1)": lambda value: 0 <= value < 1,
}


def check(config: Any, rule: str, *names: str) -> None:
    """Hold fields against a rule; None, where a field may be None, keeps them all."""
    for name in names:
        value = getattr(config, name)
        require(value is None or _RULES[rule](value), f"{name} {rule}", value)


def check_finite(config: Any) -> None:
    """Refuse a field that is infinite or not a number."""
    for name, value in vars(config).items():
        if isinstance(value, float):
            require(math.isfinite(value), f"{name} must be a finite number", value)
