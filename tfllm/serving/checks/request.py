"""A request that a check runs, and its encoding for the process that runs it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STRING = 7  # DT_STRING


@dataclass(frozen=True)
class Request:
    """A request to run in the clean process."""

    name: str
    """what it is, for messages: a warm-up record, or an input of a signature"""
    kind: str
    """"warm-up", "probe" (several rows of odd text), "row" (one of them), "whole" (rows that are
    also run in "part"s), "full" (as many rows as run together), "empty" or "growth" """
    signature: str
    inputs: dict[str, Any]
    """input name to a NumPy array"""
    outputs: tuple[str, ...]
    """names of the outputs to fetch"""
    batch: int | None
    """number of rows, if every input has the batch as dimension 0"""
    rows: tuple[str, ...] = ()
    """of a probe: a description of the text of each row"""
    only_if_failed: int | None = None
    """index of another request: this one is run only if that one failed"""
    part_of: int | None = None
    """of a part: index of the request that it is a part of"""
    first_row: int = 0
    """of a part: index of its first row there"""


def common_rows(inputs: Mapping[str, Any]) -> int | None:
    """The number of rows that all inputs have; None where they differ or one is a scalar."""
    sizes = {value.shape[0] if np.ndim(value) else None for value in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def encode_tensor(value: Any) -> dict[str, Any]:
    """An array, in its own type, as the JSON that session_process.py reads."""
    from tensorflow import as_dtype

    value = np.asarray(value)
    if value.dtype == object or value.dtype.kind in "SU":
        texts = [t.encode() if isinstance(t, str) else bytes(t) for t in value.ravel().tolist()]
        strings = [base64.b64encode(text).decode() for text in texts]
        return {"dtype": STRING, "shape": list(value.shape), "strings": strings}
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    dtype = as_dtype(value.dtype).as_datatype_enum
    return {"dtype": dtype, "shape": list(value.shape), "data": data}
