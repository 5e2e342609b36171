"""A cache that the beams of a row share, so that nothing is copied when beams are reordered.

The usual beam search keeps a cache for each beam, and copies whole caches when a beam continues
another one. Here a row has one cache: each step writes the keys and values of all its beams next to
each other, and a mask made of a beam's ancestors determines which of them it attends to (a cache
indirection). Reordering only changes a few numbers; a prompt is stored and read once per row; and
the beams' queries are one matrix product.

Shape letters: B rows, K beams of a row, C capacity (the number of new tokens of a beam that fit), S
cache indices of the new tokens (C * K, those of a token next to each other).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class BeamCacheIndices(NamedTuple):
    """The cache indices of the tokens of each beam."""

    ancestors: tf.Tensor
    """int32 `[B, K, C]`: which of the K entries of a token belongs to this beam's text"""

    @property
    def num_beams(self) -> int:
        """The number of beams, K."""
        return self.ancestors.shape[1]

    def reordered(self, parents: tf.Tensor) -> BeamCacheIndices:
        """Let each beam continue the text of its parent.

        Args:
            parents: int32 `[B * K]`, indices over all rows; each is in the same row.
        """
        rows = tf.reshape(self.ancestors, [-1, tf.shape(self.ancestors)[2]])
        return BeamCacheIndices(tf.reshape(tf.gather(rows, parents), tf.shape(self.ancestors)))

    def extended(self, added: tf.Tensor) -> BeamCacheIndices:
        """Add capacity for so many more tokens."""
        padding = tf.pad(tf.reshape(added, [1, 1]), [[2, 0], [1, 0]])
        return BeamCacheIndices(_shaped(tf.pad(self.ancestors, padding), self.num_beams))

    def with_token(self, index: tf.Tensor) -> BeamCacheIndices:
        """Give each beam its own entry for the token at an index, int32 scalar."""
        here = tf.range(tf.shape(self.ancestors)[2]) == index
        own = tf.range(self.num_beams)[:, tf.newaxis]
        return BeamCacheIndices(_shaped(tf.where(here, own, self.ancestors), self.num_beams))

    def visible(self, index: tf.Tensor) -> tf.Tensor:
        """Which entries belong to a beam's own text up to an index: bool `[B, K, S]`."""
        written = tf.range(tf.shape(self.ancestors)[2]) <= index
        own = self.ancestors[..., tf.newaxis] == tf.range(self.num_beams)
        seen = own & written[:, tf.newaxis]
        batch = tf.shape(seen)[0]
        return tf.reshape(seen, [batch, self.num_beams, tf.size(written) * self.num_beams])


def initial_indices(batch: tf.Tensor, num_beams: int, capacity: tf.Tensor) -> BeamCacheIndices:
    """The indices of beams without tokens, with capacity for some."""
    return BeamCacheIndices(
        _shaped(tf.zeros(tf.stack([batch, num_beams, capacity]), tf.int32), num_beams)
    )


def _shaped(ancestors: tf.Tensor, num_beams: int) -> tf.Tensor:
    return tf.ensure_shape(ancestors, [None, num_beams, None])
