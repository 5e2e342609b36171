"""Pack several examples into each row."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packing:
    """Assignment of examples to rows of one length."""

    order: np.ndarray
    """int64 [examples kept]: indices of the examples, row by row, in file order within a row"""
    starts: np.ndarray
    """int64 [rows + 1]: position in `order` at which each row begins"""
    num_truncated: int
    """number of examples that are longer than a row and truncated"""
    num_left_out: int
    """number of examples left out because no learned token would remain after truncation"""
    num_labels: int
    """number of labels, learned or not: how much of the rows is filled"""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    def examples(self, row: int) -> list[int]:
        """The indices of the examples in a row."""
        return self.order[self.starts[row] : self.starts[row + 1]].tolist()


def pack_examples(
    num_tokens: np.ndarray, first_learned: np.ndarray, sequence_length: int
) -> Packing:
    """Assign examples to rows, deterministically.

    An example of `n` tokens takes `n - 1` positions of a row: as many inputs, with as many labels.
    A longer example is truncated at its end, and left out if no learned token remains. Rows are
    numbered by their first example.

    Args:
        num_tokens: number of tokens of each example, int [examples].
        first_learned: index of the first learned token of each example, int [examples].
        sequence_length: positions in a row.
    """
    kept = np.flatnonzero(first_learned <= sequence_length)
    places = np.minimum(num_tokens[kept].astype(np.int64) - 1, sequence_length)
    rows = best_fit_decreasing(places, sequence_length)
    num_rows = int(rows.max(initial=-1)) + 1
    first = np.full(num_rows, len(kept))
    np.minimum.at(first, rows, np.arange(len(kept)))
    number = np.empty(num_rows, np.int64)
    number[np.argsort(first)] = np.arange(num_rows)
    rows = number[rows]
    order = np.argsort(rows, kind="stable")
    return Packing(
        order=kept[order],
        starts=np.searchsorted(rows[order], np.arange(num_rows + 1)),
        num_truncated=int((num_tokens[kept] > sequence_length + 1).sum()),
        num_left_out=len(num_tokens) - len(kept),
        num_labels=int(places.sum()),
    )


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Pack items into rows by best-fit decreasing.

    Starting with the largest, each item goes into the row where it leaves the least space, or into
    a new row if it fits into none. This takes at most 11/9 of the minimum number of rows, plus one
    (Johnson, 1973).

    Args:
        sizes: sizes of the items, int [items], from 1 to `capacity`.
        capacity: capacity of a row.

    Returns:
        The row of each item, int64 [items], counted from 0.
    """
    row_of = np.empty(len(sizes), np.int64)
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by remaining space
    spaces: list[int] = []  # the amounts of space that some row has left, sorted
    num_rows = 0
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        at = bisect_left(spaces, size)
        if at == len(spaces):
            row, left = num_rows, capacity - size
            num_rows += 1
        else:
            space = spaces[at]
            row, left = with_space[space].pop(), space - size
            if not with_space[space]:
                del spaces[at]
        row_of[item] = row
        if left:
            if not with_space[left]:
                insort(spaces, left)
            with_space[left].append(row)
    return row_of
