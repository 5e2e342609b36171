"""Which tokens of a text are hidden from a model that learns to tell them.

Shape letters: B batch, T time.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TokenMasking:
    """How BERT hides tokens (Devlin et al., 2019, section 3.1).

    Which ones, and what stands there instead, is a function of (seed, step, row): of the row's
    content, not of its place in the batch. So a run that goes on, or goes on with another number of
    devices or micro-batches, hides what it would have hidden.

    Args:
        mask_token_id: what most hidden tokens become.
        special_token_ids: tokens that are never hidden, and that hidden ones never become.
        share: of a row's tokens that are hidden, at least one of them.
        mask_share: of the hidden tokens that become the mask token.
        random_share: of the hidden tokens that become any token; the others stay what they are.
        seed: of it all.

    Raises:
        ValueError: a share that is none.
    """

    mask_token_id: int
    special_token_ids: tuple[int, ...] = ()
    share: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1]; received {self.share}")
        shares = (self.mask_share, self.random_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(
                "mask_share and random_share must not be negative, and at most 1 together; "
                f"received {self.mask_share} and {self.random_share}"
            )
        object.__setattr__(self, "special_token_ids", tuple(sorted(set(self.special_token_ids))))


class MaskedRows(NamedTuple):
    """Rows with some tokens hidden.

    Args:
        token_ids: int32 `[B, T]`, what the model sees.
        hidden: bool `[B, T]`, the places that it is asked about.
    """

    token_ids: tf.Tensor
    hidden: tf.Tensor


def mask_tokens(
    token_ids: tf.Tensor,
    candidates: tf.Tensor,
    step: tf.Tensor | int,
    masking: TokenMasking,
    vocab_size: int,
) -> MaskedRows:
    """Hide some tokens of each row.

    Args:
        token_ids: int32 `[B, T]`.
        candidates: bool `[B, T]`, the tokens that may be hidden, if they are not special.
        step: int32 scalar.
        masking: how.
        vocab_size: the number of token ids.
    """
    special = tf.constant(masking.special_token_ids, tf.int32)
    if masking.special_token_ids:
        candidates &= tf.reduce_all(token_ids[..., tf.newaxis] != special, -1)
    order, kind, other = _drawn(token_ids, candidates, step, masking.seed, 3)
    number = tf.reduce_sum(tf.cast(candidates, tf.float32), 1)
    wanted = tf.minimum(tf.maximum(tf.round(masking.share * number), 1.0), number)
    # The candidates with the smallest numbers: a token's rank among its row's.
    order = tf.where(candidates, order, 2.0)
    rank = tf.argsort(tf.argsort(order, stable=True), stable=True)
    hidden = candidates & (tf.cast(rank, tf.float32) < wanted[:, tf.newaxis])
    replacement = _any_token(other, masking, vocab_size)
    becomes_any = kind < masking.mask_share + masking.random_share
    instead = tf.where(becomes_any, replacement, token_ids)
    instead = tf.where(kind < masking.mask_share, masking.mask_token_id, instead)
    return MaskedRows(tf.where(hidden, instead, token_ids), hidden)


def _any_token(uniform: tf.Tensor, masking: TokenMasking, vocab_size: int) -> tf.Tensor:
    """Numbers in [0, 1) to the ids of tokens that are not special, each as likely."""
    special = [i for i in masking.special_token_ids if i < vocab_size]
    token = tf.cast(uniform * float(max(vocab_size - len(special), 1)), tf.int32)
    for i in special:  # in order: each one is passed over
        token += tf.cast(token >= i, tf.int32)
    return tf.minimum(token, vocab_size - 1)


def _drawn(
    token_ids: tf.Tensor, candidates: tf.Tensor, step: tf.Tensor | int, seed: int, count: int
) -> list[tf.Tensor]:
    """So many tensors float32 `[B, T]` of numbers in [0, 1), from the rows, the step and the seed.

    TensorFlow's generators draw for a batch, not for a row. Mixing whole numbers draws for each
    element by itself.
    """
    place = tf.cast(tf.range(tf.shape(token_ids)[1]), tf.uint32)
    counted = tf.where(candidates, token_ids + 1, 0)  # padding of any width changes nothing
    parts = _mixed(_mixed(tf.cast(counted, tf.uint32)) + place * _uint(0x9E3779B1))
    parts = tf.where(candidates, parts, _uint(0))
    row = _mixed(tf.reduce_sum(parts, 1, keepdims=True))
    moment = _mixed(tf.cast(step, tf.uint32) * _uint(0x85EBCA77) + _uint(seed & 0xFFFFFFFF))
    drawn = []
    for number in range(count):
        bits = _mixed(row + moment + place * _uint(0xC2B2AE3D) + _uint(number * 0x27D4EB2F))
        drawn.append(tf.cast(tf.bitwise.right_shift(bits, _uint(8)), tf.float32) / 2.0**24)
    return drawn


def _mixed(x: tf.Tensor) -> tf.Tensor:
    """A change of one bit changes half of them: the end of MurmurHash 3 (Appleby, 2011)."""
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(16))) * _uint(0x85EBCA6B)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(13))) * _uint(0xC2B2AE35)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(16)))


def _uint(value: int) -> tf.Tensor:
    return tf.constant(value & 0xFFFFFFFF, tf.uint32)
