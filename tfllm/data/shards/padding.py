"""Arrays of different lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH_STEP = 32
"""widths are multiples of it: fewer shapes, and rows that lie well in memory"""


def padded_width(lengths: Sequence[int], longest: int) -> int:
    """The width of arrays of these lengths: the longest, rounded up; 0 without any.

    Args:
        lengths: of the arrays.
        longest: that a width may be; what is beyond it is cut off.
    """
    if not len(lengths):
        return 0
    wanted = max(1, *lengths)
    return min(-(-wanted // WIDTH_STEP) * WIDTH_STEP, longest)


def padded(
    arrays: Sequence[np.ndarray], longest: int, value: int = 0, width: int | None = None
) -> np.ndarray:
    """int32 [arrays, width]: arrays of one dimension, filled up with `value` at their right.

    Args:
        arrays: to be padded.
        longest: the widest that the result may be.
        value: of the padding.
        width: of the result; default: `padded_width` of the arrays' lengths.
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
    """bool [arrays, width]: True where `padded` has an array's own element."""
    if width is None:
        width = padded_width([len(array) for array in arrays], longest)
    lengths = np.array([len(array) for array in arrays], np.int32).reshape(-1, 1)
    return np.arange(width) < lengths
