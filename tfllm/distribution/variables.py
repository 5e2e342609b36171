"""Numbers in environment variables, read or refused."""

from __future__ import annotations

from collections.abc import Mapping

from tfllm.config import ConfigError


def number(environ: Mapping[str, str], name: str) -> int:
    """A variable's whole number, at least 0.

    Raises:
        ConfigError: it is not set, or something else.
    """
    text = environ.get(name, "")
    if not text.isdecimal():
        raise ConfigError(
            f"the environment variable {name} must be a whole number; received {text!r}"
        )
    return int(text)


def port(environ: Mapping[str, str], default: int) -> int:
    """The port that TFLLM_PORT asks for, or `default`.

    Raises:
        ConfigError: it is no port that a user may listen on.
    """
    value = number(environ, "TFLLM_PORT") if environ.get("TFLLM_PORT") else default
    if not 1024 <= value <= 65535:
        raise ConfigError(f"TFLLM_PORT must lie in 1024..65535; received {value}")
    return value
