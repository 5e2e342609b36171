"""Perplexity of whole documents per word and per byte (as for WikiText)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import regex

from tfllm.data.reading.table_records import Column, Source
from tfllm.evaluation.harness.harness import HarnessResult, read_records
from tfllm.evaluation.harness.log_likelihood import rolling_log_likelihoods
from tfllm.evaluation.metrics import Metric, of_sums

COLUMNS = {"text": Column(("page", "document", "content"))}
"""columns of a record"""


def rolling_perplexity(
    model: Any,
    data: Source | Sequence[Mapping[str, Any]],
    *,
    limit: int = 0,
    batch_size: int = 16,
) -> HarnessResult:
    """Perplexity of documents, as lm-evaluation-harness measures it.

    Each token is predicted once, from the tokens before it in a window of the model's context
    length; the first one from the prefix token (`log_likelihood`). Words are separated by white
    space.

    Args:
        model: a `TextGeneration`.
        data: files with `COLUMNS`, or records.
        limit: maximum number of records; 0: all. Defaults to 0.
        batch_size: windows per batch. Defaults to 16.

    Returns:
        The result.

    Raises:
        ValueError: a record is not of this form, or the model is a `Client`.
    """
    records = read_records(data, COLUMNS, limit)
    texts = [str(record["text"]) for record in records]
    found = rolling_log_likelihoods(model, texts, batch_size=batch_size)
    losses = np.asarray([-one.log_prob for one in found])
    words = np.asarray([len(regex.split(r"\s+", text)) for text in texts])
    num_bytes = np.asarray([len(text.encode()) for text in texts])
    predictions = [
        {"text": text, "log_prob": one.log_prob, "num_tokens": one.num_tokens}
        for text, one in zip(texts, found, strict=True)
    ]
    metrics = [
        _perplexity("word_perplexity", losses, words, "exp of the loss per word"),
        _perplexity("byte_perplexity", losses, num_bytes, "exp of the loss per UTF-8 byte"),
        of_sums(
            "bits_per_byte",
            np.stack([losses, num_bytes], 1),
            lambda sums: sums[:, 0] / sums[:, 1] / math.log(2),
            note="UTF-8",
            higher_is_better=False,
        ),
    ]
    return HarnessResult("rolling_perplexity", metrics, predictions)


def _perplexity(name: str, losses: np.ndarray, counts: np.ndarray, note: str) -> Metric:
    return of_sums(
        name,
        np.stack([losses, counts], 1),
        lambda sums: np.exp(np.minimum(sums[:, 0] / sums[:, 1], 700.0)),
        note=note,
        higher_is_better=False,
    )
