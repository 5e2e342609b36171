"""Attention a chunk of queries at a time, so that no tensor grows with the square of the length.

The weights of a chunk exist only until its outputs are computed. What is kept of them for the
backward pass is the log-sum-exp of each query's scores, from which they are computed again (Rabe &
Staats, "Self-attention does not need O(n²) memory", 2021; Dao et al., FlashAttention, 2022). Keys
that no query of a chunk attends to are left out of its products.

Shape letters: B batch, T query time, S key time, N query heads, K key/value heads, D head size, C
queries of a chunk, R keys of a chunk.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfllm.layers.dropout import dropout
from tfllm.layers.masks import AttentionMask
from tfllm.layers.shapes import shape_of

_ROWS, _MOST_CHUNKS = 256, 32
"""queries of a chunk, unless there would be more chunks than that, each of which is a part of the
graph. With 128 queries products are slower, with 512 less is left out and more is held."""
_NEVER = -1e8
"""a log-sum-exp below it is that of a query that attends to no key"""


def attention_in_chunks(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    mask: AttentionMask,
    dropout_rate: float = 0.0,
    seed: tf.Tensor | None = None,
    rows: int | None = None,
) -> tf.Tensor:
    """softmax(Q Kᵀ + bias) V, with gradients of query, key, value and the mask's learned bias.

    A query that attends to no key gets some mean of the values, and gives no gradient.

    Args:
        query: float `[B, N, T, D]`; T is known. It has been scaled.
        key: float `[B, K, S, D]`; K divides N.
        value: float `[B, K, S, D]`.
        mask: which keys each query attends to.
        dropout_rate: fraction of the attention weights that is dropped; needs `seed`.
        seed: seed of dropout, int32 `[2]`. Which weights are dropped depends on it and on `rows`.
        rows: queries of a chunk. Defaults to 256, or a 32nd of more than 8,192.

    Returns:
        float `[B, N, T, D]`.
    """
    time = query.shape[2]
    rows = rows or max(_ROWS, -(-time // _MOST_CHUNKS))
    chunks = [(first, min(first + rows, time)) for first in range(0, time, rows)]
    rate = dropout_rate if seed is not None else 0.0
    given = [query, key, value] + ([] if mask.bias is None else [mask.bias])

    @tf.custom_gradient
    def attend(*given: tf.Tensor) -> Any:
        part = _Chunks(*given, mask=mask, dropout_rate=rate, seed=seed)
        outputs, sums = [], []
        done: list[tf.Tensor] = []
        for chunk in chunks:
            with tf.control_dependencies(done):  # otherwise all chunks could be held at once
                output, log_sum = part.forward(*chunk)
            outputs.append(output)
            sums.append(log_sum)
            done = [output]
        output, log_sum = tf.concat(outputs, 2), tf.concat(sums, 2)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return part.backward(chunks, output, log_sum, upstream)

        return output, gradient

    return attend(*given)


class _Chunks:
    """The forward and the backward pass of chunks of queries.

    Products are in the dtype of the inputs; the rest is float32 if that is less precise.
    """

    def __init__(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        bias: tf.Tensor | None = None,
        *,
        mask: AttentionMask,
        dropout_rate: float,
        seed: tf.Tensor | None,
    ) -> None:
        self.query, self.key, self.value, self.bias = query, key, value, bias
        self.mask, self.rate, self.seed = mask, dropout_rate, seed
        self.heads, self.kv_heads = query.shape[1], key.shape[1]
        self.dtype = query.dtype
        self.exact = tf.float32 if query.dtype.size < 4 else query.dtype
        self.length = shape_of(key)[2] if key.shape[2] is not None else tf.shape(key)[2]

    def forward(self, first: int, last: int) -> tuple[tf.Tensor, tf.Tensor]:
        """A chunk's outputs `[B, N, C, D]`, and the log-sum-exp of its scores `[B, N, C, 1]`."""
        keys = self.mask.keys_of(first, last, self.length)
        scores = self._product(self.query, self.key, (first, last), keys)
        scores = self._biased(scores, (first, last), keys)
        weights = tf.nn.softmax(scores)
        # The largest weight is exp(largest score - log-sum-exp).
        largest = tf.reduce_max(weights, -1, keepdims=True)
        log_sum = tf.reduce_max(scores, -1, keepdims=True) - tf.math.log(largest)
        weights = tf.cast(self._dropped(weights, first), self.dtype)
        mixed = tf.matmul(self._grouped(weights), _slice(self.value, keys))
        return self._by_head(mixed, last - first), log_sum

    def backward(
        self,
        chunks: list[tuple[int, int]],
        output: tf.Tensor,
        log_sum: tf.Tensor,
        upstream: tf.Tensor,
    ) -> list[tf.Tensor]:
        """The gradients of query, key, value and, if there is one, the learned bias."""
        # That of a score is weight · (gradient of the weight - the weights' mean of these).
        mean = tf.reduce_sum(
            tf.cast(upstream, self.exact) * tf.cast(output, self.exact), -1, keepdims=True
        )
        log_sum = tf.where(log_sum < _NEVER, -_NEVER, log_sum)
        key, value = self.key, self.value
        if self.dtype == self.exact:  # then products subtract: there is a row more to sum
            ones = tf.ones_like(key[..., :1])
            key, value = tf.concat([key, ones], -1), tf.concat([value, ones], -1)
        d_query, d_bias, done = [], [], [mean]
        d_key, d_value = _KeySum(), _KeySum()
        for first, last in chunks:
            queries, keys = (first, last), self.mask.keys_of(first, last, self.length)
            with tf.control_dependencies(done):
                scores = self._product(self.query, key, queries, keys, log_sum)
                weights = tf.exp(self._biased(scores, queries, keys))
                if self.rate:
                    kept = self._dropped(weights, first)
                    d_kept = self._product(upstream, self.value, queries, keys)
                    d_scores = kept * d_kept - weights * mean[:, :, first:last]
                else:
                    kept = weights
                    d_scores = weights * self._product(upstream, value, queries, keys, mean)
                d_products = self._grouped(tf.cast(d_scores, self.dtype))
                of_chunk = tf.matmul(d_products, _slice(self.key, keys))
                d_query.append(self._by_head(of_chunk, last - first))
                d_key.add(self._summed(d_products, self.query, queries), keys)
                kept = self._grouped(tf.cast(kept, self.dtype))
                d_value.add(self._summed(kept, upstream, queries), keys)
                if self.bias is not None:
                    d_bias.append(self._bias_gradient(self.bias, d_scores, queries, keys))
            done = [d_query[-1], d_key.last, d_value.last]
        gradients = [tf.concat(d_query, 2), d_key.total(), d_value.total()]
        if self.bias is not None:
            whole = tf.add_n(d_bias) if self.bias.shape[2] == 1 else tf.concat(d_bias, 2)
            gradients.append(whole)
        dtypes = [self.dtype] * 3 + [x.dtype for x in (self.bias,) if x is not None]
        return [tf.cast(g, dtype) for g, dtype in zip(gradients, dtypes, strict=True)]

    def _product(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        queries: tuple[int, int],
        keys: tuple[int, Any],
        less: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """x yᵀ - less for a chunk, `[B, N, C, R]`.

        Args:
            x: `[B, N, T, D]`.
            y: `[B, K, S, D]`; or `[B, K, S, D + 1]`, with a column of ones.
            queries: those of the chunk.
            keys: those of the chunk.
            less: `[B, N, T, 1]`.
        """
        x = _slice(x, queries)
        inside = y.shape[3] > x.shape[3]
        if less is not None:
            less = _slice(less, queries)
            x = tf.concat([x, -less], -1) if inside else x
        product = tf.matmul(self._grouped(x), _slice(y, keys), transpose_b=True)
        product = tf.cast(self._by_head(product, queries[1] - queries[0]), self.exact)
        return product if inside or less is None else product - less

    def _summed(self, x: tf.Tensor, y: tf.Tensor, queries: tuple[int, int]) -> tf.Tensor:
        """xᵀ y, summed over the queries of a chunk and of a group: `[B, K, R, D]`."""
        y = self._grouped(_slice(y, queries))
        return tf.cast(tf.matmul(x, y, transpose_a=True), self.exact)

    def _biased(
        self, scores: tf.Tensor, queries: tuple[int, int], keys: tuple[int, Any]
    ) -> tf.Tensor:
        masked = self.mask.part(queries, keys, self.exact)
        learned = self._bias_part(queries, keys)
        if learned is not None:
            scores += tf.cast(learned, self.exact)
        return scores if masked is None else scores + masked

    def _bias_part(self, queries: tuple[int, int], keys: tuple[int, Any]) -> tf.Tensor | None:
        """The learned bias of a chunk, `[1 or B, 1 or N, C or 1, R or 1]`."""
        if self.bias is None:
            return None
        every = slice(None)
        of_queries = every if self.bias.shape[2] == 1 else slice(*queries)
        return self.bias[:, :, of_queries, every if self.bias.shape[3] == 1 else slice(*keys)]

    def _bias_gradient(
        self, bias: tf.Tensor, d_scores: tf.Tensor, queries: tuple[int, int], keys: tuple[int, Any]
    ) -> tf.Tensor:
        """That of the learned bias, of all keys: summed where the bias is repeated."""
        shape = tf.shape(self._bias_part(queries, keys))
        repeated = tf.raw_ops.BroadcastGradientArgs(s0=shape, s1=tf.shape(d_scores)).r0
        summed = tf.reshape(tf.reduce_sum(d_scores, repeated), shape)
        if bias.shape[3] == 1:
            return summed
        return tf.pad(summed, [[0, 0], [0, 0], [0, 0], [keys[0], self.length - keys[1]]])

    def _dropped(self, weights: tf.Tensor, first: int) -> tf.Tensor:
        if not self.rate:
            return weights
        return dropout(weights, self.rate, tf.random.fold_in(self.seed, first))

    def _grouped(self, x: tf.Tensor) -> tf.Tensor:
        """`[B, N, C, ...]` to `[B, K, N / K · C, ...]`: the queries of a group in one axis."""
        if self.heads == self.kv_heads:
            return x
        group = self.heads // self.kv_heads
        return tf.reshape(x, [*_batch_of(x), self.kv_heads, group * x.shape[2], _width_of(x)])

    def _by_head(self, x: tf.Tensor, rows: int) -> tf.Tensor:
        """`[B, K, N / K · C, ...]` to `[B, N, C, ...]`."""
        if self.heads == self.kv_heads:
            return x
        return tf.reshape(x, [*_batch_of(x), self.heads, rows, _width_of(x)])


class _KeySum:
    """The sum of what chunks add to the keys that they look at, which begin and end ever later."""

    def __init__(self) -> None:
        self._done: list[tf.Tensor] = []
        self._begin, self._end = 0, 0
        self.last: Any = None

    def add(self, x: tf.Tensor, keys: tuple[int, Any]) -> None:
        """Add x `[B, K, R, D]` at these keys."""
        begin, end = keys
        if self.last is None:
            self.last = x
        else:
            if begin > self._begin:
                self._done.append(self.last[:, :, : begin - self._begin])
                self.last = self.last[:, :, begin - self._begin :]
            if isinstance(end, int) and end > self._end:
                self.last = tf.pad(self.last, [[0, 0], [0, 0], [0, end - self._end], [0, 0]])
            self.last += x
        self._begin, self._end = begin, end

    def total(self) -> tf.Tensor:
        """The sums of all keys, `[B, K, S, D]`."""
        return tf.concat([*self._done, self.last], 2)


def _slice(x: tf.Tensor, rows: tuple[Any, Any]) -> tf.Tensor:
    """Some rows of the third axis."""
    return x[:, :, rows[0] : rows[1]]


def _batch_of(x: tf.Tensor) -> list[Any]:
    return [tf.shape(x)[0] if x.shape[0] is None else x.shape[0]]


def _width_of(x: tf.Tensor) -> Any:
    return tf.shape(x)[3] if x.shape[3] is None else x.shape[3]
