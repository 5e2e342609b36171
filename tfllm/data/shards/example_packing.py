"""Which examples stand side by side in a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packing:
    """Examples in rows of one length."""

    order: np.ndarray
    """int64 [examples kept]: their numbers, row after row, in a row as in the files"""
    starts: np.ndarray
    """int64 [rows + 1]: where each row begins in `order`"""
    num_cut: int
    """examples that are cut at their end, being longer than a row"""
    num_left_out: int
    """examples of which nothing that is learned would be left"""
    num_labels: int
    """tokens with one before them, learned or not: how much of the rows is filled"""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1

    def examples(self, row: int) -> list[int]:
        """The numbers of the examples in a row."""
        return self.order[self.starts[row] : self.starts[row + 1]].tolist()


def pack_examples(
    num_tokens: np.ndarray, first_learned: np.ndarray, sequence_length: int
) -> Packing:
    """Divide examples among rows; the same ones are always divided alike.

    An example of `n` tokens takes `n - 1` places of a row: as many inputs, with as many labels.
    One that is longer than a row is cut at its end, and left out where nothing learned remains.
    Rows are numbered by the first example in them.

    Args:
        num_tokens: int [examples].
        first_learned: int [examples]: the first token of each that is learned.
        sequence_length: places in a row.
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
        num_cut=int((num_tokens[kept] > sequence_length + 1).sum()),
        num_left_out=len(num_tokens) - len(kept),
        num_labels=int(places.sum()),
    )


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each item: int64 [items], rows numbered from 0.

    The longest items first, each goes where it leaves the least space, and into a new row where it
    fits in none. It takes at most 11/9 of the fewest rows possible, and one more (Johnson, 1973).

    Args:
        sizes: int [items], from 1 to `capacity`.
        capacity: of a row.
    """
    row_of = np.empty(len(sizes), np.int64)
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows, by the space left
    spaces: list[int] = []  # those that some row has, in order
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
