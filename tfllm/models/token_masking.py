"""Masking of the tokens that a masked language model learns to predict.

Shape letters: B batch, T time.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TokenMasking:
    """How BERT hides tokens (Devlin et al., 2019, section 3.1).

    Which tokens are hidden, and what replaces them, is a function of (seed, step, row): of the
    row's content, not of its position in the batch. So a run that is resumed, even with another
    number of devices or micro-batches, hides the same tokens as one that was not interrupted.

    Args:
        mask_token_id: id that replaces most hidden tokens.
        special_token_ids: ids that are never hidden, and never replace a hidden token. Defaults to
            none.
        share: fraction of a row's tokens that are hidden, at least one token. Defaults to 0.15.
        mask_share: fraction of the hidden tokens that become the mask token. Defaults to 0.8.
        random_share: fraction of the hidden tokens that become a random token; the others are left
            as they are. Defaults to 0.1.
        seed: seed of all choices. Defaults to 0.

    Raises:
        ValueError: a share is out of range.

    Examples:
        >>> from tfllm.models.token_masking import TokenMasking, mask_tokens
        >>> masking = TokenMasking(mask_token_id=3, special_token_ids=(0, 1, 2, 3))
        >>> ids = tf.range(10, 30)[tf.newaxis]
        >>> rows = mask_tokens(ids, ids > 0, step=0, masking=masking, vocab_size=64)
        >>> int(tf.reduce_sum(tf.cast(rows.hidden, tf.int32)))
        3
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
        token_ids: int32 `[B, T]`, the model's input.
        hidden: bool `[B, T]`, true for the tokens to predict.
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
        candidates: bool `[B, T]`, true for tokens that may be hidden if they are not special.
        step: number of the training step, int32 scalar.
        masking: how to hide them.
        vocab_size: number of token ids.
    """
    special = tf.constant(masking.special_token_ids, tf.int32)
    if masking.special_token_ids:
        candidates &= tf.reduce_all(token_ids[..., tf.newaxis] != special, -1)
    order, kind, other = _drawn(token_ids, candidates, step, masking.seed, 3)
    number = tf.reduce_sum(tf.cast(candidates, tf.float32), 1)
    wanted = tf.minimum(tf.maximum(tf.round(masking.share * number), 1.0), number)
    # The candidates with the smallest random numbers, by their rank in the row.
    order = tf.where(candidates, order, 2.0)
    rank = tf.argsort(tf.argsort(order, stable=True), stable=True)
    hidden = candidates & (tf.cast(rank, tf.float32) < wanted[:, tf.newaxis])
    replacement = _any_token(other, masking, vocab_size)
    becomes_any = kind < masking.mask_share + masking.random_share
    instead = tf.where(becomes_any, replacement, token_ids)
    instead = tf.where(kind < masking.mask_share, masking.mask_token_id, instead)
    return MaskedRows(tf.where(hidden, instead, token_ids), hidden)


def _any_token(uniform: tf.Tensor, masking: TokenMasking, vocab_size: int) -> tf.Tensor:
    """Map uniform numbers in [0, 1) to ids of tokens that are not special, all equally likely."""
    special = [i for i in masking.special_token_ids if i < vocab_size]
    token = tf.cast(uniform * float(max(vocab_size - len(special), 1)), tf.int32)
    for i in special:  # in ascending order: skip each of them
        token += tf.cast(token >= i, tf.int32)
    return tf.minimum(token, vocab_size - 1)


def _drawn(
    token_ids: tf.Tensor, candidates: tf.Tensor, step: tf.Tensor | int, seed: int, count: int
) -> list[tf.Tensor]:
    """`count` float32 tensors `[B, T]` of numbers in [0, 1), from the rows, the step and the seed.

    TensorFlow's generators draw numbers for a batch, not for a row. Hashing integers gives each
    element its own numbers.
    """
    place = tf.cast(tf.range(tf.shape(token_ids)[1]), tf.uint32)
    counted = tf.where(candidates, token_ids + 1, 0)  # the amount of padding does not matter
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
    """The finalizer of MurmurHash 3 (Appleby, 2011): changing one bit changes half of the bits."""
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(16))) * _uint(0x85EBCA6B)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(13))) * _uint(0xC2B2AE35)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(16)))


def _uint(value: int) -> tf.Tensor:
    return tf.constant(value & 0xFFFFFFFF, tf.uint32)
