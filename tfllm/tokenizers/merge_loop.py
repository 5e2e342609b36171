"""The merges of byte-pair encoding, for all pieces of a batch at once.

BPE joins, again and again, the pair of neighbours with the earliest merge, the leftmost of several
(Sennrich et al., 2016). Here each turn of the loop does that in every piece at once, and within a
piece at every place where that is the same as one after the other:

- At all places of the piece's earliest pair. Only where the new token would itself be joined by an
  earlier merge do the places to the right wait for the next turn.
- In very long pieces, at every pair that is the earliest for some way around. What lies outside
  can reach the pair only as part of one token, and no token is longer than that way; so nothing
  can come in between.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.frozen_table import FrozenTable

_NONE = 2**31 - 1  # the rank of a pair that no merge joins
_NEIGHBOURS = 2  # how far a merge changes the pairs around it


class MergeLoop(tf.Module):
    """The merges as tables.

    Args:
        pairs: int64 [merges, 2], the ids that each merge joins; the first merge comes first.
        results: int32 [merges], the id that it makes.
        unsafe: bool [merges], whether an earlier merge uses what this one makes. After such a
            merge something else may have to come before the same merge at the next place.
        longest: the most bytes that a token made by a merge has.
    """

    def __init__(
        self, pairs: np.ndarray, results: np.ndarray, unsafe: np.ndarray, longest: int
    ) -> None:
        super().__init__(name="merges")
        keys = (pairs[:, 0] << 32) | pairs[:, 1]
        self._ranks = FrozenTable(keys, np.arange(len(keys), dtype=np.int32), _NONE, "ranks")
        # At least one entry, so that there is something to gather from.
        self._results = tf.Variable(
            np.append(results, 0).astype(np.int32), trainable=False, name="results"
        )
        self._unsafe = tf.Variable(
            np.append(unsafe, False).astype(bool), trainable=False, name="unsafe"
        )
        self._any_unsafe = bool(unsafe.any())
        self._window = 1 << int(longest + _NEIGHBOURS - 1).bit_length()  # rounded up

    def run(
        self,
        symbols: tf.Tensor,
        piece: tf.Tensor,
        place: tf.Tensor,
        num_pieces: tf.Tensor,
        result: tf.Tensor,
    ) -> tf.Tensor:
        """Merge until no pair is left that a merge joins.

        Args:
            symbols: int32 [N], the id of each byte.
            piece: int32 [N], ascending, the piece that the byte is of.
            place: int32 [N], the byte's place in `result`.
            num_pieces: int32, more than the highest piece.
            result: int32 [bytes].

        Returns:
            `result`, with each token's id at the place of its first byte.
        """
        rank = self._rank(symbols, piece, tf.range(tf.size(symbols)))
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(piece), piece, num_pieces)
        has_long = tf.reduce_max(tf.concat([lengths, [0]], 0)) >= 4 * self._window

        def body(symbols, piece, place, rank, result):
            # Pieces with nothing left to merge are written out and leave the loop.
            best = tf.gather(tf.math.unsorted_segment_min(rank, piece, num_pieces), piece)
            done = tf.where(tf.equal(best, _NONE))
            result = tf.tensor_scatter_nd_update(
                result, tf.gather_nd(place, done)[:, tf.newaxis], tf.gather_nd(symbols, done)
            )
            at = tf.cast(tf.where(tf.equal(rank, best) & (rank < _NONE))[:, 0], tf.int32)
            at = _every_other(at)
            if self._any_unsafe:
                at = self._before_conflict(at, symbols, piece, rank)
            at = tf.cond(has_long, lambda: self._with_local(at, rank), lambda: at)
            merged = tf.gather(self._results, tf.gather(rank, at))
            symbols = tf.tensor_scatter_nd_update(symbols, at[:, tf.newaxis], merged)
            keep = tf.tensor_scatter_nd_update(
                tf.cast(best < _NONE, tf.int32), at[:, tf.newaxis] + 1, tf.zeros_like(at)
            )
            kept = tf.where(keep > 0)[:, 0]
            new_at = tf.gather(tf.cumsum(keep), at) - 1
            symbols, piece, place, rank = (
                tf.gather(x, kept) for x in (symbols, piece, place, rank)
            )
            # Only the pairs on both sides of a new token have changed.
            changed = tf.concat([tf.maximum(new_at - 1, 0), new_at], 0)
            rank = tf.tensor_scatter_nd_update(
                rank, changed[:, tf.newaxis], self._rank(symbols, piece, changed)
            )
            return symbols, piece, place, rank, result

        row = tf.TensorShape([None])
        return tf.while_loop(
            lambda symbols, *_: tf.size(symbols) > 0,
            body,
            (symbols, piece, place, rank, result),
            shape_invariants=(row, row, row, row, row),
            parallel_iterations=1,
        )[-1]

    def _with_local(self, at: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        """`at`, and the places that come before all others within the window on both sides."""
        ahead = behind = rank  # the least rank of the `width` places from here on, and up to here
        width = 1
        while width < self._window:
            ahead = tf.minimum(ahead, _shifted(ahead, width))
            behind = tf.minimum(behind, _shifted(behind, -width))
            width *= 2
        least = tf.minimum(_shifted(ahead, 1), _shifted(behind, -1))
        local = (rank < least) & (rank < _NONE)
        local &= ~tf.gather(self._unsafe, tf.where(local, rank, 0))
        chosen = tf.tensor_scatter_nd_update(local, at[:, tf.newaxis], tf.fill(tf.shape(at), True))
        return tf.cast(tf.where(chosen)[:, 0], tf.int32)

    def _rank(self, symbols: tf.Tensor, piece: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
        """The ranks of the pairs that begin at the given places."""
        after = tf.minimum(at + 1, tf.size(symbols) - 1)
        joined = tf.equal(tf.gather(piece, at), tf.gather(piece, after)) & (after > at)
        return self._pair_rank(tf.gather(symbols, at), tf.gather(symbols, after), joined)

    def _pair_rank(self, left: tf.Tensor, right: tf.Tensor, joined: tf.Tensor) -> tf.Tensor:
        key = tf.bitwise.left_shift(tf.cast(left, tf.int64), tf.constant(32, tf.int64))
        rank = self._ranks.lookup(key + tf.cast(right, tf.int64))
        return tf.where(joined, rank, _NONE)

    def _before_conflict(
        self, at: tf.Tensor, symbols: tf.Tensor, piece: tf.Tensor, rank: tf.Tensor
    ) -> tf.Tensor:
        """In each piece, the places up to the first after which an earlier merge must come."""
        ranks = tf.gather(rank, at)
        unsafe = tf.gather(self._unsafe, ranks)

        def check() -> tf.Tensor:
            merged = tf.gather(self._results, ranks)
            own = tf.gather(piece, at)
            # The token on the left may itself be new.
            left = tf.maximum(at - 1, 0)
            previous = tf.concat([[-2], at[:-1]], 0)[: tf.size(at)]
            new_left = tf.concat([[0], merged[:-1]], 0)[: tf.size(at)]
            left_symbol = tf.where(tf.equal(previous, at - 2), new_left, tf.gather(symbols, left))
            with_left = tf.equal(tf.gather(piece, left), own) & (left < at)
            right = tf.minimum(at + 2, tf.size(symbols) - 1)
            with_right = tf.equal(tf.gather(piece, right), own) & tf.equal(right, at + 2)
            new_rank = tf.minimum(
                self._pair_rank(left_symbol, merged, with_left),
                self._pair_rank(merged, tf.gather(symbols, right), with_right),
            )
            conflict = tf.cast(unsafe & (new_rank < ranks), tf.int32)
            before = tf.cumsum(conflict, exclusive=True)
            first = tf.concat([[True], own[1:] != own[:-1]], 0)[: tf.size(at)]
            before_piece = tf.gather(tf.boolean_mask(before, first), _group(first))
            return tf.boolean_mask(at, tf.equal(before, before_piece))

        return tf.cond(tf.reduce_any(unsafe), check, lambda: at)


def _shifted(rank: tf.Tensor, by: int) -> tf.Tensor:
    """At each place the rank `by` places further on; beyond the ends there is no pair."""
    n = tf.size(rank)
    away = tf.minimum(abs(by), n)
    nothing = tf.fill([away], _NONE)
    return tf.concat([rank[away:], nothing] if by > 0 else [nothing, rank[: n - away]], 0)


def _group(first: tf.Tensor) -> tf.Tensor:
    """The number of the group of each element, where bool [n] marks the first of each group."""
    return tf.cumsum(tf.cast(first, tf.int32)) - 1


def _every_other(at: tf.Tensor) -> tf.Tensor:
    """In each row of consecutive places, the first, third, ...: in "aaa" pairs overlap."""
    first = tf.concat([[True], at[1:] - at[:-1] > 1], 0)[: tf.size(at)]
    start = tf.gather(tf.boolean_mask(at, first), _group(first))
    return tf.boolean_mask(at, tf.equal(tf.bitwise.bitwise_and(at - start, 1), 0))
