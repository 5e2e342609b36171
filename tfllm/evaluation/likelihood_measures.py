"""How well text is foretold, a document an example."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfllm.evaluation.measures import Measure, check_lengths, of_sums

_MOST_LOSS = 700.0
"""exp of more is infinite"""


def perplexity(
    losses: Sequence[float] | np.ndarray, num_tokens: Sequence[int] | np.ndarray
) -> Measure:
    """exp of the mean loss of a token; comparable between models with the same tokenizer.

    Args:
        losses: of each document the sum of -log p over its tokens, natural logarithm.
        num_tokens: of each document, how many tokens these are.
    """
    check_lengths(losses, num_tokens)
    return of_sums(
        "perplexity",
        np.stack([np.asarray(losses, np.float64), np.asarray(num_tokens, np.float64)], 1),
        lambda sums: np.exp(np.minimum(sums[:, 0] / sums[:, 1], _MOST_LOSS)),
        note="a token",
        higher_is_better=False,
    )


def bits_per_byte(
    losses: Sequence[float] | np.ndarray, num_bytes: Sequence[int] | np.ndarray
) -> Measure:
    """The loss in bits over the bytes of the text; comparable between tokenizers.

    Args:
        losses: of each document the sum of -log p over its tokens, natural logarithm.
        num_bytes: of each document, its length in UTF-8.
    """
    check_lengths(losses, num_bytes)
    return of_sums(
        "bits per byte",
        np.stack([np.asarray(losses, np.float64), np.asarray(num_bytes, np.float64)], 1),
        lambda sums: sums[:, 0] / sums[:, 1] / math.log(2),
        note="UTF-8",
        higher_is_better=False,
    )
