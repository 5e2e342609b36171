"""A common interface to weight files: names, dtypes and shapes, and the rows of a tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import numpy as np

from tfllm.pretrained.hugging_face.tensor_files import TensorInfo

# Large enough that reading is not dominated by overhead, and small compared with any model.
_CHUNK_ELEMENTS = 2**18


class TensorSource(Protocol):
    """Tensors by name, read a few rows at a time so that a model is never in memory twice."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors that exist, by name."""

    @property
    def readable(self) -> Collection[str]:
        """The dtypes, as named in the files, that `read` supports."""

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Read rows `begin` to `end` (default: all) of a tensor."""


def row_chunks(info: TensorInfo) -> Iterator[tuple[int, int]]:
    """Split the rows of a tensor into groups, and return their bounds."""
    row = 1
    for length in info.shape[1:]:
        row *= length
    step = max(1, _CHUNK_ELEMENTS // max(1, row))
    for begin in range(0, info.shape[0], step):
        yield begin, min(begin + step, info.shape[0])


def equal(source: TensorSource, name: str, other: str) -> bool:
    """Whether two tensors have the same shape and values."""
    info = source.tensors[name]
    return info.shape == source.tensors[other].shape and all(
        np.array_equal(source.read(name, *rows), source.read(other, *rows))
        for rows in row_chunks(info)
    )
