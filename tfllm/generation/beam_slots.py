"""A cache that the beams of a row share, so that nothing is copied when beams are reordered.

The usual beam search keeps a cache for each beam, and copies whole caches when a beam continues
another one. Here a row has one cache: each step writes the keys and values of all its beams next to
each other, and a mask made of a beam's ancestors determines which of them it attends to. Reordering
only changes a few numbers; a prompt is stored and read once per row; and the beams' queries are one
matrix product.

Shape letters: B rows, K beams of a row, R tokens that there is room for, S cache indices of the new
tokens (R * K, those of a token next to each other).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class BeamSlots(NamedTuple):
    """The cache indices of the tokens of each beam."""

    ancestors: tf.Tensor
    """int32 `[B, K, R]`: which of the K entries of a token belongs to this beam's text"""

    @property
    def num(self) -> int:
        """The number of beams, K."""
        return self.ancestors.shape[1]

    def reordered(self, parents: tf.Tensor) -> BeamSlots:
        """Let each beam continue the text of its parent.

        Args:
            parents: int32 `[B * K]`, indices over all rows; each is in the same row.
        """
        return BeamSlots(tf.reshape(tf.gather(self._rows(), parents), tf.shape(self.ancestors)))

    def _rows(self) -> tf.Tensor:
        return tf.reshape(self.ancestors, [-1, tf.shape(self.ancestors)[2]])

    def lengthened(self, more: tf.Tensor) -> BeamSlots:
        """Make room for so many more tokens."""
        padding = tf.pad(tf.reshape(more, [1, 1]), [[2, 0], [1, 0]])
        return BeamSlots(_shaped(tf.pad(self.ancestors, padding), self.num))

    def with_token(self, place: tf.Tensor) -> BeamSlots:
        """Give each beam its own entry for the token at an index, int32 scalar."""
        here = tf.range(tf.shape(self.ancestors)[2]) == place
        own = tf.range(self.num)[:, tf.newaxis]
        return BeamSlots(_shaped(tf.where(here, own, self.ancestors), self.num))

    def visible(self, place: tf.Tensor) -> tf.Tensor:
        """Which entries belong to a beam's own text up to an index: bool `[B, K, S]`."""
        written = tf.range(tf.shape(self.ancestors)[2]) <= place
        own = self.ancestors[..., tf.newaxis] == tf.range(self.num)
        seen = own & written[:, tf.newaxis]
        batch = tf.shape(seen)[0]
        return tf.reshape(seen, [batch, self.num, tf.size(written) * self.num])


def first_slots(batch: tf.Tensor, num: int, room: tf.Tensor) -> BeamSlots:
    """The start for `num` beams of each row, without tokens, and with room for some."""
    return BeamSlots(_shaped(tf.zeros(tf.stack([batch, num, room]), tf.int32), num))


def _shaped(ancestors: tf.Tensor, num: int) -> tf.Tensor:
    return tf.ensure_shape(ancestors, [None, num, None])
