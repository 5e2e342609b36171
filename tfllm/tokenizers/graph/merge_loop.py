"""Apply the merges of byte-pair encoding to all pieces of a batch at once.

BPE repeatedly joins the adjacent pair with the earliest merge, and of several the leftmost
(Sennrich et al., 2016). Here each iteration of the loop does that in every piece at once, and
within a piece wherever the result is the same as with one merge at a time:

- At all positions of the piece's earliest pair. Only if an earlier merge would join the new token
  itself, the positions to its right wait for the next iteration.
- In long pieces, at every pair that is the earliest within a certain distance: its reach. Text
  farther away can only affect the pair as part of one token that an earlier merge joins to one of
  the pair's parts, and no such token is longer than the reach; so nothing can interfere.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfllm.tokenizers.graph.frozen_table import FrozenTable

_NONE = 2**31 - 1  # the rank of a pair that no merge joins
_LONG = 64  # number of symbols in a piece from which the second way pays off


class MergeLoop(tf.Module):
    """The merges as tables.

    Args:
        pairs: int64 [merges, 2], the ids that each merge joins, in order of priority.
        results: int32 [merges], the id that it makes.
        unsafe: bool [merges], whether an earlier merge uses what this one makes. After such a
            merge, another one may have to come before the same merge at the next position.
        lengths: int [ids], the number of bytes of each id.
    """

    def __init__(
        self, pairs: np.ndarray, results: np.ndarray, unsafe: np.ndarray, lengths: np.ndarray
    ) -> None:
        super().__init__(name="merges")
        keys = (pairs[:, 0] << 32) | pairs[:, 1]
        self._ranks = FrozenTable(keys, np.arange(len(keys), dtype=np.int32), _NONE, "ranks")
        # At least one entry, so that `gather` has something to read.
        self._results = tf.Variable(
            np.append(results, 0).astype(np.int32), trainable=False, name="results"
        )
        self._unsafe = tf.Variable(
            np.append(unsafe, False).astype(bool), trainable=False, name="unsafe"
        )
        self._any_unsafe = bool(unsafe.any())
        # Merge k reaches at most 2 ** level[k] positions; the level -1 (unsafe merges, no merge) is
        # never used.
        level = np.ceil(np.log2(np.maximum(_reach(pairs, lengths), 1)))
        level = np.append(np.where(unsafe, -1, level), -1).astype(np.int32)
        self._num_levels = int(level.max()) + 1
        self._level = tf.Variable(level, trainable=False, name="level")

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
            piece: int32 [N], ascending, the piece that contains the byte.
            place: int32 [N], the byte's index in `result`.
            num_pieces: int32, number of pieces; greater than every value in `piece`.
            result: int32 [bytes].

        Returns:
            `result`, with each token's id at the index of its first byte.
        """
        rank = self._rank(symbols, piece, tf.range(tf.size(symbols)))
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(piece), piece, num_pieces)
        has_long = tf.reduce_max(tf.concat([lengths, [0]], 0)) >= _LONG

        def body(symbols, piece, place, rank, result):
            # Finished pieces are written to the result and leave the loop.
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
        """`at`, and the positions that come before all others within their reach on both sides."""
        level = tf.gather(self._level, tf.minimum(rank, tf.size(self._level) - 1))
        ahead, behind = _shifted(rank, 1), _shifted(rank, -1)
        # A pair that occurs several times may be merged at each, the leftmost first, unless two
        # overlap.
        apart = rank < tf.minimum(ahead, behind)
        clear = tf.zeros_like(apart)
        for i in range(self._num_levels):
            if i:  # the least rank of the 2 ** i places on either side
                ahead = tf.minimum(ahead, _shifted(ahead, 1 << (i - 1)))
                behind = tf.minimum(behind, _shifted(behind, -(1 << (i - 1))))
            clear |= tf.equal(level, i) & (rank <= tf.minimum(ahead, behind))
        chosen = tf.tensor_scatter_nd_update(
            apart & clear, at[:, tf.newaxis], tf.fill(tf.shape(at), True)
        )
        return tf.cast(tf.where(chosen)[:, 0], tf.int32)

    def _rank(self, symbols: tf.Tensor, piece: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
        """The ranks of the pairs that begin at the given positions."""
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
        """The positions in each piece up to the first one after which an earlier merge must
        come."""
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


def _reach(pairs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """For each merge, the bytes of the longest token that a merge up to it joins to its parts.

    "Up to it" includes the merge: in "aaa" the merge of "a" and "a" competes with itself.
    """
    reach = np.zeros(len(pairs), np.int64)
    on_the_left: dict[int, int] = {}  # for each id, the longest token that is joined to its left
    on_the_right: dict[int, int] = {}
    for i, (left, right) in enumerate(pairs.tolist()):
        on_the_left[right] = max(on_the_left.get(right, 0), int(lengths[left]))
        on_the_right[left] = max(on_the_right.get(left, 0), int(lengths[right]))
        reach[i] = max(on_the_left.get(left, 0), on_the_right.get(right, 0))
    return reach


def _shifted(rank: tf.Tensor, by: int) -> tf.Tensor:
    """The rank `by` positions after each position; there is no pair beyond the ends."""
    n = tf.size(rank)
    away = tf.minimum(abs(by), n)
    nothing = tf.fill([away], _NONE)
    return tf.concat([rank[away:], nothing] if by > 0 else [nothing, rank[: n - away]], 0)


def _group(first: tf.Tensor) -> tf.Tensor:
    """The index of each element's group, where bool [n] marks the first element of each group."""
    return tf.cumsum(tf.cast(first, tf.int32)) - 1


def _every_other(at: tf.Tensor) -> tf.Tensor:
    """Keep the first, third, ... of consecutive positions: in "aaa" pairs overlap."""
    first = tf.concat([[True], at[1:] - at[:-1] > 1], 0)[: tf.size(at)]
    start = tf.gather(tf.boolean_mask(at, first), _group(first))
    return tf.boolean_mask(at, tf.equal(tf.bitwise.bitwise_and(at - start, 1), 0))
