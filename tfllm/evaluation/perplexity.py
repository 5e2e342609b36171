"""Perplexity of a causal language model on prepared text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfllm.data import PreparedData, rows_dataset
from tfllm.models.causal_lm import CausalLM


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured."""

    num_tokens: int
    """tokens that were predicted"""
    loss: float
    """mean of -log p(token | tokens before it in its row), natural logarithm"""
    perplexity: float
    """exp of the loss"""
    bits_per_byte: float
    """the loss in bits over the bytes of a token: comparable between tokenizers"""
    unigram_perplexity: float
    """of a model that knows only how frequent each token is in the training text"""


def evaluate(
    model: CausalLM,
    data: str | Path | PreparedData,
    *,
    split: Literal["validation", "train"] = "validation",
    sequence_length: int | None = None,
    batch_size: int = 8,
    num_batches: int = 0,
) -> Evaluation:
    """Measure a model on a split, once over.

    Args:
        model: the model.
        data: what `tfllm.prepare` wrote, with the model's own tokenizer.
        split: which documents.
        sequence_length: tokens in a row: how much context the model is given at most. Default: the
            model's context, at most 1,024.
        batch_size: rows at once.
        num_batches: stop after so many; 0: all.

    Raises:
        ValueError: the data has other token ids than the model, or the split has no rows.
    """
    if not isinstance(data, PreparedData):
        data = PreparedData.open(data)
    if data.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the text must be prepared with the model's tokenizer; {data.folder} has "
            f"{data.vocab_size} token ids, the model {model.config.vocab_size}"
        )
    rows = rows_dataset(
        data,
        split,
        sequence_length=sequence_length or min(model.config.max_sequence_length, 1024),
        batch_size=batch_size,
        shuffle=False,
        repeat=False,
        num_batches=num_batches or None,
    )
    # With an optimizer `compile` would build its state; evaluation needs none.
    if not model.compiled:
        model.compile(optimizer=None)
    # The weights of a batch add up to its tokens: the mean over batches is weighted by them.
    loss = float(model.evaluate(rows, verbose=0, return_dict=True)["loss"])
    num_tokens = sum(int(weights.numpy().sum()) for _, _, weights in rows)
    part = data.split(split)
    bytes_per_token = part.num_bytes / max(part.num_tokens, 1)
    return Evaluation(
        num_tokens=num_tokens,
        loss=loss,
        perplexity=math.exp(loss),
        bits_per_byte=loss / math.log(2) / bytes_per_token,
        unigram_perplexity=data.unigram_perplexity() if data.validation.num_tokens else math.nan,
    )
