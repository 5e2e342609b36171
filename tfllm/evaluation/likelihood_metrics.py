"""Metrics of how well a model predicts documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfllm.evaluation.metrics import Metric, check_lengths, of_sums

_MOST_LOSS = 700.0
"""larger losses are capped, since their exponential is infinite"""


def perplexity(
    losses: Sequence[float] | np.ndarray, num_tokens: Sequence[int] | np.ndarray
) -> Metric:
    """Perplexity: exp of the mean loss per token; comparable between models with one tokenizer.

    Args:
        losses: sum of -log p over the tokens of each document, in nats.
        num_tokens: number of tokens of each document.
    """
    check_lengths(losses, num_tokens)
    return of_sums(
        "perplexity",
        np.stack([np.asarray(losses, np.float64), np.asarray(num_tokens, np.float64)], 1),
        lambda sums: np.exp(np.minimum(sums[:, 0] / sums[:, 1], _MOST_LOSS)),
        note="per token",
        higher_is_better=False,
    )


def bits_per_byte(
    losses: Sequence[float] | np.ndarray, num_bytes: Sequence[int] | np.ndarray
) -> Metric:
    """Bits per byte: the loss in bits per UTF-8 byte of text; comparable between tokenizers.

    Args:
        losses: sum of -log p over the tokens of each document, in nats.
        num_bytes: UTF-8 bytes of each document.
    """
    check_lengths(losses, num_bytes)
    return of_sums(
        "bits per byte",
        np.stack([np.asarray(losses, np.float64), np.asarray(num_bytes, np.float64)], 1),
        lambda sums: sums[:, 0] / sums[:, 1] / math.log(2),
        note="UTF-8",
        higher_is_better=False,
    )
