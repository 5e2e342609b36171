"""Checks of settings, and the error that they raise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


class ConfigError(ValueError):
    """A setting is unknown, has the wrong type, or is out of range.

    Examples:
        >>> from tfllm import GenerationConfig
        >>> GenerationConfig(top_p=2.0)
        Traceback (most recent call last):
        tfllm.config.rules.ConfigError: top_p must lie in (0, 1]; received 2.0
    """


def require(rule_holds: bool, rule: str, received: Any) -> None:
    """Raise a ConfigError with the rule and the value received, unless the rule holds."""
    if not rule_holds:
        raise ConfigError(f"{rule}; received {received!r}")


@dataclass(frozen=True)
class Interval:
    """An interval of allowed numbers.

    `holds` takes a number, or an array or tensor of numbers; NaN is in no interval.
    """

    rule: str
    """the rule in words, which follows the setting's name in an error"""
    least: float
    most: float = math.inf
    open_below: bool = False
    """whether `least` itself is outside"""
    open_above: bool = False

    def holds(self, value: Any) -> Any:
        """Whether each number lies inside."""
        inside = value > self.least if self.open_below else value >= self.least
        if self.most == math.inf:  # TensorFlow cannot compare an integer tensor with infinity
            return inside
        return inside & (value < self.most if self.open_above else value <= self.most)


AT_LEAST_0 = Interval("must be at least 0", 0)
AT_LEAST_1 = Interval("must be at least 1", 1)
_INTERVALS = {
    interval.rule: interval
    for interval in (
        AT_LEAST_0,
        AT_LEAST_1,
        Interval("must not be negative", 0),
        Interval("must be positive", 0, open_below=True),
        Interval("must lie in [0, 1)", 0, 1, open_above=True),
    )
}


def check(config: Any, rule: str, *names: str) -> None:
    """Check the named fields of a dataclass against a rule; None always passes.

    Raises:
        ConfigError: a field breaks the rule.
    """
    for name in names:
        value = getattr(config, name)
        require(value is None or _INTERVALS[rule].holds(value), f"{name} {rule}", value)


def check_finite(config: Any) -> None:
    """Refuse float fields that are infinite or NaN.

    Raises:
        ConfigError: a field is not finite.
    """
    for name, value in vars(config).items():
        if isinstance(value, float):
            require(math.isfinite(value), f"{name} must be a finite number", value)
