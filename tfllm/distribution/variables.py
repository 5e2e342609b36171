"""Read and check numbers in environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from tfllm.config import ConfigError


def number(environ: Mapping[str, str], name: str) -> int:
    """Read a variable that must be a whole number, at least 0.

    Raises:
        ConfigError: If it is not set, or not such a number.
    """
    text = environ.get(name, "")
    if not text.isdecimal():
        raise ConfigError(
            f"the environment variable {name} must be a whole number; received {text!r}"
        )
    return int(text)


def port(environ: Mapping[str, str], default: int) -> int:
    """The port in TFLLM_PORT, or `default`.

    Raises:
        ConfigError: If a user may not listen on that port.
    """
    value = number(environ, "TFLLM_PORT") if environ.get("TFLLM_PORT") else default
    if not 1024 <= value <= 65535:
        raise ConfigError(f"TFLLM_PORT must be in 1024..65535; received {value}")
    return value
