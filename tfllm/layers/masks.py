"""Which keys a query attends to, as a bias that is added to the scores.

Shape letters: B batch, T query time, S key time, N query heads.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfllm.layers.key_value_cache import is_empty

LONG_CAUSAL, LONG = 1024, 4096
"""from how many queries on attention is computed in chunks: if chunks have keys that they need not
look at, which saves time, too; and otherwise, where training takes about 1.2 times as long, the
price of the memory"""


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMask:
    """Which keys each query attends to, as a rule: the bias of any part of it can be made.

    A bias of all queries and keys has the size of the square of the length. A mask has not, and it
    is known of it which keys a chunk of queries need not look at.
    """

    query_time: int | tf.Tensor
    """T"""
    causal: bool = True
    """a query attends to keys at its own position and before; else to all of them"""
    sliding_window: int | None = None
    """number of tokens that a query attends to, its own the last of them; padding is not counted"""
    padding_mask: tf.Tensor | None = None
    """bool `[B, S]`, true for keys that are tokens"""
    segment_ids: tf.Tensor | None = None
    """int `[B, T]`; tokens attend to their own segment only"""
    cache_index: int | tf.Tensor = 0
    """position among the keys of the first query; the Python number 0: the keys are the queries'
    own, S = T, or those of a context"""
    cache_length: int | tf.Tensor | None = None
    """S, of which those before cache_index + T are written; needed unless cache_index is 0"""
    bias: tf.Tensor | None = None
    """`[1 or B, 1 or N, T or 1, S or 1]`, added to the scores besides; it may be learned"""
    dtype: Any = tf.float32
    """dtype of the bias of all queries and keys"""

    def __post_init__(self) -> None:
        if self.segment_ids is not None and not is_empty(self.cache_index):
            raise ValueError(
                "segment_ids are not known of the tokens in a cache; give a bias instead"
            )

    @property
    def is_long(self) -> bool:
        """Whether attention with it is computed in chunks."""
        skips = self.causal and is_empty(self.cache_index)
        return isinstance(self.query_time, int) and self.query_time >= (
            LONG_CAUSAL if skips else LONG
        )

    def whole(self) -> tf.Tensor | None:
        """The bias of all queries and keys, `[1 or B, 1 or N, T or 1, S]`, or None for no bias."""
        masked = self.part((0, self.query_time), None, self.dtype)
        if self.bias is None or masked is None:
            return masked if self.bias is None else self.bias
        return self.bias + masked

    def keys_of(self, first: int, last: int, length: Any) -> tuple[int, Any]:
        """Begin and end of the keys that the queries from `first` to before `last` look at.

        Args:
            first: number of a query.
            last: number of a query.
            length: S.
        """
        if not self.causal or not is_empty(self.cache_index):
            return 0, length
        if self.sliding_window is None or self.padding_mask is not None:
            return 0, last  # padding is not counted: a window may reach back as far as it likes
        return max(0, first - self.sliding_window + 1), last

    def part(
        self, queries: tuple[Any, Any], keys: tuple[Any, Any] | None, dtype: Any
    ) -> tf.Tensor | None:
        """The bias of some queries and keys, without the learned one; None where all are seen.

        Args:
            queries: number of the first, and of the one after the last.
            keys: the same; None: all.
            dtype: dtype of the result.

        Returns:
            `[1 or B, 1, queries or 1, keys]`: 0 where a query attends to a key, else a large
            negative number.
        """
        if keys is None:
            seen = slice(None)
            keys = 0, self.query_time if is_empty(self.cache_index) else self.cache_length
        else:
            seen = slice(*keys)
        allowed = None
        if not is_empty(self.cache_index):
            assert self.cache_length is not None
            steps = tf.range(*queries)
            last = self.cache_index + (steps if self.causal else 0 * steps + self.query_time - 1)
            allowed = (tf.range(*keys) <= last[:, tf.newaxis])[tf.newaxis]
        elif self.causal:
            allowed = (tf.range(*queries)[:, tf.newaxis] >= tf.range(*keys))[tf.newaxis]
        if self.segment_ids is not None:
            of_queries = self.segment_ids[:, slice(*queries), tf.newaxis]
            same = of_queries == self.segment_ids[:, tf.newaxis, seen]
            allowed = same if allowed is None else allowed & same
        if self.padding_mask is not None:
            tokens = tf.cast(self.padding_mask, tf.bool)[:, tf.newaxis, seen]
            allowed = tokens if allowed is None else allowed & tokens
        if self.sliding_window is not None:
            number = self._numbered(keys[1])
            begin, end = (self.cache_index + place for place in queries)
            distance = number[:, begin:end, tf.newaxis] - number[:, tf.newaxis, seen]
            near = distance < self.sliding_window
            allowed = near if allowed is None else allowed & near
        return None if allowed is None else bias_of(allowed, dtype)[:, tf.newaxis]

    def _numbered(self, length: int | tf.Tensor) -> tf.Tensor:
        """Each key's number among the tokens of its row, int32 `[1 or B, length]`."""
        if self.padding_mask is None:
            return tf.range(length)[tf.newaxis]
        return tf.cumsum(tf.cast(self.padding_mask, tf.int32), axis=1)


def attention_bias(
    *,
    query_time: int | tf.Tensor,
    causal: bool = True,
    sliding_window: int | None = None,
    padding_mask: tf.Tensor | None = None,
    segment_ids: tf.Tensor | None = None,
    cache_index: int | tf.Tensor = 0,
    cache_length: int | tf.Tensor | None = None,
    dtype: Any = tf.float32,
) -> tf.Tensor | None:
    """0 where a query attends to a key, else a large negative number.

    Args:
        query_time: T.
        causal: a query attends to keys at its own position and before; else to all of them.
        sliding_window: number of tokens that a query attends to, its own the last of them; padding
            is not counted. Defaults to None, no limit.
        padding_mask: bool `[B, S]`, true for keys that are tokens.
        segment_ids: int `[B, T]`; tokens attend to their own segment only. Not with a cache that
            holds tokens.
        cache_index: position in the cache of the first query, int32 scalar; the Python number 0:
            the cache is empty, and keys are the queries' own, S = T.
        cache_length: the cache's positions, S, of which those before cache_index + T are written.
            Needed unless cache_index is the Python number 0.
        dtype: dtype of the result.

    Returns:
        `[1 or B, 1, T, S]`, or None where every query attends to every key.
    """
    return AttentionMask(
        query_time,
        causal,
        sliding_window,
        padding_mask,
        segment_ids,
        cache_index,
        cache_length,
        dtype=dtype,
    ).whole()


def shared_bias(*, whole: bool = False, **options: Any) -> tf.Tensor | AttentionMask:
    """`attention_bias` for all layers of a model; the mask itself if attention is in chunks.

    Where nothing is masked it is zeros `[1, 1, 1, 1]` instead of None: a layer that is given no
    bias would compute its own from its other arguments.

    Args:
        whole: always return a bias, as is needed if attention weights are wanted.
        options: the arguments of `attention_bias`.
    """
    mask = AttentionMask(**options)
    if mask.is_long and not whole:
        return mask
    bias = mask.whole()
    return tf.zeros([1, 1, 1, 1], mask.dtype) if bias is None else bias


def with_bias(mask: tf.Tensor | AttentionMask | None, bias: tf.Tensor) -> tf.Tensor | AttentionMask:
    """A learned bias `[1, N, T, S]` and a mask, in one."""
    if isinstance(mask, AttentionMask):
        return dataclasses.replace(mask, bias=bias)
    return bias if mask is None else bias + mask


def learned_bias(bias: tf.Tensor | AttentionMask | None) -> tf.Tensor | None:
    """The bias, or that of a mask, if it has a value for each head: such a bias is learned."""
    if isinstance(bias, AttentionMask):
        bias = bias.bias
    return None if bias is None or bias.shape[1] == 1 else bias


def bias_of(allowed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """True to 0 and false to a number that softmax turns into 0, finite so that no row is NaN."""
    dtype = tf.as_dtype(dtype)
    never = -6e4 if dtype == tf.float16 else -1e9
    return tf.where(allowed, tf.zeros([], dtype), tf.constant(never, dtype))
