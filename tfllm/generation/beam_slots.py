"""A cache that the beams of a row share, so that nothing is copied when beams swap.

The usual beam search keeps a cache for each beam and copies whole caches when a beam goes on from
another one. Here a row has one cache: every token's step writes the keys and values of all its
beams, side by side, and what a beam may see of them is a mask made of its ancestors. A swap changes
a few numbers; a prompt is held and read once a row; and the beams' queries are one matrix product.

Shape letters: B rows, K beams of a row, R tokens that there is room for, S slots of the new tokens
(R * K, those of a token side by side).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class BeamSlots(NamedTuple):
    """Where the tokens of each beam stand."""

    ancestors: tf.Tensor
    """int32 `[B, K, R]`: which of the K slots of a token holds the one of this beam's text"""

    @property
    def num(self) -> int:
        """K."""
        return self.ancestors.shape[1]

    def reordered(self, parents: tf.Tensor) -> BeamSlots:
        """Each beam with the text of its parent.

        Args:
            parents: int32 `[B * K]`, counted through all rows; of the same row.
        """
        return BeamSlots(tf.reshape(tf.gather(self._rows(), parents), tf.shape(self.ancestors)))

    def _rows(self) -> tf.Tensor:
        return tf.reshape(self.ancestors, [-1, tf.shape(self.ancestors)[2]])

    def lengthened(self, more: tf.Tensor) -> BeamSlots:
        """With room for so many more tokens."""
        padding = tf.pad(tf.reshape(more, [1, 1]), [[2, 0], [1, 0]])
        return BeamSlots(_shaped(tf.pad(self.ancestors, padding), self.num))

    def with_token(self, place: tf.Tensor) -> BeamSlots:
        """The token at a place, int32 scalar, is each beam's own."""
        here = tf.range(tf.shape(self.ancestors)[2]) == place
        own = tf.range(self.num)[:, tf.newaxis]
        return BeamSlots(_shaped(tf.where(here, own, self.ancestors), self.num))

    def visible(self, place: tf.Tensor) -> tf.Tensor:
        """Which slots hold a beam's own text up to a place, bool `[B, K, S]`."""
        written = tf.range(tf.shape(self.ancestors)[2]) <= place
        own = self.ancestors[..., tf.newaxis] == tf.range(self.num)
        seen = own & written[:, tf.newaxis]
        batch = tf.shape(seen)[0]
        return tf.reshape(seen, [batch, self.num, tf.size(written) * self.num])


def first_slots(batch: tf.Tensor, num: int, room: tf.Tensor) -> BeamSlots:
    """Of `num` beams a row without a token yet, with room for some."""
    return BeamSlots(_shaped(tf.zeros(tf.stack([batch, num, room]), tf.int32), num))


def _shaped(ancestors: tf.Tensor, num: int) -> tf.Tensor:
    return tf.ensure_shape(ancestors, [None, num, None])
