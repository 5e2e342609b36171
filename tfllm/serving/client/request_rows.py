"""Checks of the rows of a request before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfllm.config import ConfigError


def require_texts(what: str, texts: Sequence[Any]) -> None:
    """Refuse rows that are not strings.

    Args:
        what: name of the argument, for the message.
        texts: the rows.

    Raises:
        ConfigError: a row is not a string.
    """
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"{what} must be a string or a list of strings; received {text!r}")


def require_rows(what: str, rows: Any) -> None:
    """Refuse a request without rows.

    Args:
        what: name of the argument, for the message.
        rows: a sequence, an array, or a scalar, which is not checked.

    Raises:
        ValueError: there is no row.
    """
    shape = getattr(rows, "shape", None)
    if shape is None and isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        shape = (len(rows),)
    if shape is not None and len(shape) > 0 and shape[0] == 0:
        raise ValueError(
            f"{what} must have at least one row; received none. TensorFlow Serving with batching "
            "leaves such a request without an answer"
        )
