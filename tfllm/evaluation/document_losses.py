"""The loss of whole documents, for metrics that compare models on the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.evaluation.likelihood_metrics import bits_per_byte, perplexity
from tfllm.evaluation.metrics import Metric
from tfllm.generation.causal_lm_decoder import CausalLMDecoder
from tfllm.generation.decoding import Decoder
from tfllm.models.causal_lm import CausalLM
from tfllm.tokenizers.base import Tokenizer
from tfllm.tokenizers.begin_token import prefix_token_id


class DocumentLosses(NamedTuple):
    """Losses and sizes of documents."""

    losses: np.ndarray
    """loss of each document: sum of -log p over its tokens, in nats, float64 `[N]`"""
    num_tokens: np.ndarray
    """number of tokens of each document, int64 `[N]`"""
    num_bytes: np.ndarray
    """UTF-8 bytes of each document, int64 `[N]`"""

    def metrics(self) -> list[Metric]:
        """Perplexity and bits per byte."""
        return [
            perplexity(self.losses, self.num_tokens),
            bits_per_byte(self.losses, self.num_bytes),
        ]


def document_losses(
    model: CausalLM | Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    sequence_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> DocumentLosses:
    """Compute the loss of each text over all its tokens.

    The first token is predicted from the prefix token, which is the begin token, or the end token
    if there is none (`prefix_token_id`). A text longer than `sequence_length` is divided into
    overlapping windows; a token counts in the first window that contains it. The end token is not
    predicted, so that any models can be compared on the same text.

    Args:
        model: a model or a decoder.
        tokenizer: tokenizer of the model.
        texts: documents, none of which may be empty.
        sequence_length: tokens in a window. Best is the length that the model was trained with,
            since it predicts worse at positions that it has never seen. Defaults to the model's
            context length, but at most 1,024.
        stride: number of tokens between the starts of windows. Defaults to half of
            `sequence_length`, so that a token has at least that many tokens of context, if
            available.
        batch_size: windows per batch. Defaults to 8.

    Raises:
        ValueError: a text is empty, or a length is out of range.
    """
    decoder = CausalLMDecoder(model) if isinstance(model, CausalLM) else model
    length = min(decoder.context, 1024) if sequence_length is None else sequence_length
    step = max(length // 2, 1) if stride is None else stride
    if not 1 <= length <= decoder.context:
        raise ValueError(
            f"sequence_length must be from 1 to the model's context ({decoder.context}); "
            f"received {length}"
        )
    if not 1 <= step <= length:
        raise ValueError(f"stride must be from 1 to sequence_length ({length}); received {step}")
    start = prefix_token_id(tokenizer)
    rows, num_tokens = [], []
    for number, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        if not ids:
            raise ValueError(f"a text must not be empty; text {number + 1} is: leave it out")
        num_tokens.append(len(ids))
        rows += list(_windows(number, [start, *ids], length, step))

    @tf.function(reduce_retracing=True)
    def losses_of(token_ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return decoder.token_losses(token_ids, labels)

    sums = np.zeros(len(texts))
    for at in range(0, len(rows), batch_size):
        batch = rows[at : at + batch_size]
        padded = np.zeros((batch_size, length + 1), np.int32)
        for i, (_, window, _) in enumerate(batch):
            padded[i, : len(window)] = window
        losses = losses_of(tf.constant(padded[:, :-1]), tf.constant(padded[:, 1:])).numpy()
        for i, (number, window, known) in enumerate(batch):
            sums[number] += losses[i, known : len(window) - 1].sum(dtype=np.float64)
    return DocumentLosses(
        sums,
        np.asarray(num_tokens, np.int64),
        np.asarray([len(text.encode()) for text in texts], np.int64),
    )


def _windows(
    number: int, ids: Sequence[int], length: int, step: int
) -> list[tuple[int, Sequence[int], int]]:
    """The windows of a document: (its number, tokens, number of losses already counted)."""
    windows, counted = [], 0
    begin = 0
    while counted < len(ids) - 1:
        window = ids[begin : begin + length + 1]
        windows.append((number, window, counted - begin))
        counted = begin + len(window) - 1
        begin += step
    return windows
