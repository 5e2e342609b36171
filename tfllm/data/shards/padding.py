"""Pad arrays of different lengths to a common width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH_STEP = 32
"""widths are multiples of this, for fewer shapes and aligned rows"""


def padded_width(lengths: Sequence[int], longest: int) -> int:
    """The width for arrays of these lengths: the longest, rounded up; 0 without arrays.

    Args:
        lengths: lengths of the arrays.
        longest: maximum width; longer arrays are truncated to it.
    """
    if not len(lengths):
        return 0
    wanted = max(1, *lengths)
    return min(-(-wanted // WIDTH_STEP) * WIDTH_STEP, longest)


def padded(
    arrays: Sequence[np.ndarray], longest: int, value: int = 0, width: int | None = None
) -> np.ndarray:
    """Pad one-dimensional arrays with `value` on the right: int32 [arrays, width].

    Args:
        arrays: arrays to pad.
        longest: maximum width of the result.
        value: value of the padding. Defaults to 0.
        width: width of the result. Defaults to `padded_width` of the arrays' lengths.
    """
    if width is None:
        width = padded_width([len(array) for array in arrays], longest)
    result = np.full((len(arrays), width), value, np.int32)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array[:width]
    return result


def padding_mask(
    arrays: Sequence[np.ndarray], longest: int, width: int | None = None
) -> np.ndarray:
    """Mask of the elements of `padded` that are not padding: bool [arrays, width]."""
    if width is None:
        width = padded_width([len(array) for array in arrays], longest)
    lengths = np.array([len(array) for array in arrays], np.int32).reshape(-1, 1)
    return np.arange(width) < lengths
