"""Choose the next token of each row from its logits and its own options.

A row's choice only depends on its own logits, options, seed and step, so it is the same alone and
in any batch.

Shape letters: B batch, V vocabulary, N candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.config import GenerationConfig
from tfllm.generation.option_inputs import option_tensors

# Sampling from the most likely few only needs these; the whole vocabulary is sorted only if a row's
# top_p extends beyond them.
_FEW = 256

# Beyond these, options have no further effect except that scores would overflow to NaN.
_LEAST_TEMPERATURE = 1e-10
_MOST_PENALTY = 1e10


class SamplingOptions(NamedTuple):
    """Sampling options of every row, each of shape `[B]`; for their meaning see `GenerationConfig`.

    Examples:

    >>> from tfllm import GenerationConfig
    >>> from tfllm.generation.sampling import SamplingOptions
    >>> SamplingOptions.of(GenerationConfig(top_k=40), 2).top_k.numpy().tolist()
    [40, 40]
    """

    temperature: tf.Tensor  # float32
    top_k: tf.Tensor  # int32
    top_p: tf.Tensor  # float32
    min_p: tf.Tensor  # float32
    repetition_penalty: tf.Tensor  # float32
    seed: tf.Tensor  # int32
    prompt_lookup_tokens: tf.Tensor  # int32; of `prompt_lookup`, it does not affect the choice

    @classmethod
    def of(cls, config: GenerationConfig, batch_size: int | tf.Tensor) -> SamplingOptions:
        """One configuration's options for a whole batch."""
        tensors = option_tensors(config, batch_size)
        return cls(**{name: tensors[name] for name in cls._fields})


def next_tokens(
    logits: tf.Tensor, options: SamplingOptions, step: tf.Tensor, seen: tf.Tensor
) -> tf.Tensor:
    """Choose a token for each row.

    The order is that of Hugging Face's processors: repetition penalty (Keskar et al., CTRL, 2019),
    temperature, top-k (Fan et al., 2018), top-p (Holtzman et al., 2020), min-p (Nguyen et al.,
    2024).

    Args:
        logits: float32 `[B, V]`.
        options: Options of each row; a temperature of 0 takes the most likely token.
        step: int32 scalar, the index of the token in the text; it determines the draw together with
            the seed.
        seen: bool `[B, V]`, tokens that the row already has.

    Returns:
        int32 `[B]`.
    """
    penalty = options.repetition_penalty[:, tf.newaxis]

    def penalised() -> tf.Tensor:
        factor = tf.clip_by_value(penalty, 1 / _MOST_PENALTY, _MOST_PENALTY)
        scaled = tf.where(logits > 0, logits / factor, logits * factor)
        return tf.where(seen & (penalty != 1), scaled, logits)

    logits = tf.cond(tf.reduce_any(penalty != 1), penalised, lambda: logits)
    likeliest = tf.argmax(logits, axis=-1, output_type=tf.int32)
    samples = options.temperature > 0
    drawn = tf.cond(tf.reduce_any(samples), lambda: _draw(logits, options, step), lambda: likeliest)
    return tf.where(samples, drawn, likeliest)


def _draw(logits: tf.Tensor, options: SamplingOptions, step: tf.Tensor) -> tf.Tensor:
    temperature = tf.maximum(options.temperature, _LEAST_TEMPERATURE)
    probabilities = tf.nn.softmax(logits / temperature[:, tf.newaxis])
    uniform = uniform_numbers(options.seed, step)
    limited = (options.top_k > 0) | (options.top_p < 1) | (options.min_p > 0)
    none = tf.zeros_like(options.seed)
    from_all = tf.cond(
        tf.reduce_all(limited), lambda: none, lambda: _inverse_cdf(probabilities, uniform)
    )
    from_some = tf.cond(
        tf.reduce_any(limited),
        lambda: _draw_limited(probabilities, options, limited, uniform),
        lambda: none,
    )
    return tf.where(limited, from_some, from_all)


def _draw_limited(
    probabilities: tf.Tensor, options: SamplingOptions, limited: tf.Tensor, uniform: tf.Tensor
) -> tf.Tensor:
    vocab_size = tf.shape(probabilities)[-1]

    def from_likeliest(num: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw among the `num` most likely; and whether all allowed tokens are among them."""
        p_BN, id_BN = tf.math.top_k(probabilities, num)
        cuts = (options.top_k > 0) & (options.top_k < vocab_size)
        k = tf.where(cuts, options.top_k, vocab_size)
        kept = tf.where(tf.range(num) < k[:, tf.newaxis], p_BN, 0.0)
        before = tf.cumsum(kept, axis=-1, exclusive=True)
        # The mass that top-k leaves; 1 if it leaves all. Summed in order, so that trailing zeros do
        # not change the rounding: the number of candidates must not matter.
        mass = tf.where(cuts, before[:, -1] + kept[:, -1], 1.0)
        # Rounding may bring `before` to 1 too soon; 1 keeps all.
        nucleus = options.top_p < 1
        limit = tf.where(nucleus, options.top_p * mass, np.inf)[:, tf.newaxis]
        floor = options.min_p[:, tf.newaxis] * p_BN[:, :1]
        # The most likely token is always kept.
        stays = ((before < limit) & (kept >= floor)) | (tf.range(num) == 0)
        # If top-k keeps more than these, its mass is not known yet, but top-p needs it.
        ends = ~stays[:, -1] & ~(nucleus & cuts)
        enough = (num >= vocab_size) | (k <= num) | ends | ~limited
        kept = tf.where(stays, kept, 0.0)
        place = _inverse_cdf(kept, uniform)
        return tf.gather(id_BN, place, batch_dims=1), tf.reduce_all(enough)

    few = tf.minimum(_FEW, vocab_size)
    drawn, enough = from_likeliest(few)
    return tf.cond(enough, lambda: drawn, lambda: from_likeliest(vocab_size)[0])


def _inverse_cdf(weights: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """The index at which the running sum of `[B, N]` weights exceeds a uniform share of the
    total."""
    running = tf.cumsum(weights, axis=-1)
    passed = running <= uniform[:, tf.newaxis] * running[:, -1:]
    index = tf.reduce_sum(tf.cast(passed, tf.int32), axis=-1)
    # Rounding may exceed all; then it is the last one with a positive weight.
    count = tf.shape(weights)[-1]
    positive = tf.where(weights > 0, tf.range(count), 0)
    return tf.minimum(index, tf.reduce_max(positive, axis=-1))


def uniform_numbers(seed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """A number in [0, 1) for each row, a hash of its seed and the step.

    TensorFlow's stateless generators take one seed for a whole batch, so a row would draw different
    numbers in another batch. This is the finalizer of SplitMix64 (Steele, Lea & Flood, 2014).

    Args:
        seed: int32 `[B]`.
        step: int32 scalar.

    Returns:
        float32 `[B]`.
    """
    z = tf.cast(seed, tf.uint64) * tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    z += (tf.cast(step, tf.uint64) + tf.constant(1, tf.uint64)) * tf.constant(
        0xD1B54A32D192ED03, tf.uint64
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
        if factor is not None:
            z *= tf.constant(factor, tf.uint64)
    # 24 bits, which float32 represents exactly, so that 1 is never reached.
    bits = tf.bitwise.right_shift(z, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(bits, tf.int32), tf.float32) * 2.0**-24
