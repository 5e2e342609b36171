"""Perplexity of a causal language model on prepared text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from tfllm.data import PreparedData, rows_dataset
from tfllm.evaluation.evaluation import Evaluation
from tfllm.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Perplexity(Evaluation):
    """Loss and perplexity of a language model on text.

    Examples:
        >>> result = Perplexity("language_modeling", "train", 100, 1.5, 4.4817, 0.7, float("nan"))
        >>> result.rows()["perplexity"]
        '4.48'
    """

    split: str
    """split of the data"""
    num_tokens: int
    """number of predicted tokens"""
    loss: float
    """mean of -log p(token | tokens before it in its row), in nats"""
    perplexity: float
    """exp of the loss"""
    bits_per_byte: float
    """loss in bits per UTF-8 byte of text: comparable between tokenizers"""
    unigram_perplexity: float
    """perplexity on the validation split of the token frequencies in the training text; NaN without
    a validation split"""

    def rows(self) -> dict[str, str]:
        """Loss and perplexity, and the perplexity of a baseline if there is one."""
        rows = {
            f"tokens of the {self.split} text": f"{self.num_tokens:,}",
            "loss": f"{self.loss:.4f}",
            "perplexity": f"{self.perplexity:.2f}",
        }
        if self.split == "validation" and not math.isnan(self.unigram_perplexity):
            rows["of a unigram model"] = f"{self.unigram_perplexity:.2f}"
        rows["bits per byte"] = f"{self.bits_per_byte:.3f}"
        return rows


def perplexity(
    model: CausalLM,
    data: str | Path | PreparedData,
    *,
    split: Literal["validation", "train"] = "validation",
    sequence_length: int | None = None,
    batch_size: int = 8,
    num_batches: int = 0,
    separate_documents: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Perplexity:
    """Measure the perplexity of a causal language model on a split of prepared data.

    Args:
        model: the model.
        data: data that `tfllm.prepare` wrote, with the model's tokenizer.
        split: "validation" or "train". Defaults to "validation".
        sequence_length: tokens in a row, which is the maximum context of a token; best is the
            length that the model was trained with. Defaults to the model's context length, but at
            most 1,024.
        batch_size: rows per batch. Defaults to 8.
        num_batches: maximum number of batches; 0: all. Defaults to 0.
        separate_documents: whether tokens attend only to tokens of the same document. Defaults to
            True.
        tokenizer: the model's tokenizer, to be compared with that of the data.

    Returns:
        The loss and the perplexity.

    Raises:
        ValueError: the data have other token ids than the model, the split has no rows, or
            `sequence_length` is longer than the model's context.
    """
    if not isinstance(data, PreparedData):
        data = PreparedData.open(data)
    if data.records == "preference":
        raise ValueError(
            f"perplexity is for text or examples; {data.folder} contains preferences, for which a "
            "run measures loss, accuracy and margin during training"
        )
    _check_tokenizer(model, data, split, tokenizer)
    context = model.config.max_sequence_length
    if sequence_length is not None and sequence_length > context:
        raise ValueError(
            f"sequence_length must be at most the model's context ({context}); "
            f"received {sequence_length}"
        )
    rows = rows_dataset(
        data,
        split,
        sequence_length=min(context, 1024) if sequence_length is None else sequence_length,
        batch_size=batch_size,
        shuffle=False,
        repeat=False,
        num_batches=num_batches or None,
        separate_documents=separate_documents,
    )

    # Not `model.evaluate`, which needs `compile`, and measures the loss that was given to it.
    @tf.function
    def sums(x: Any, y: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return model.loss_sums(x, y, weights, training=False)

    total, num_tokens = 0.0, 0.0
    for batch in rows:
        loss_sum, weight_sum = sums(*batch)
        total, num_tokens = total + float(loss_sum), num_tokens + float(weight_sum)
    if num_tokens == 0:
        raise ValueError(
            f"the {split} text of {data.folder} has no token that follows another one; prepare "
            "more text"
        )
    loss = total / num_tokens
    return Perplexity(
        task=data.task,
        split=split,
        num_tokens=round(num_tokens),
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=loss / math.log(2) / data.split(split).bytes_per_token,
        unigram_perplexity=data.unigram_perplexity() if data.validation.num_tokens else math.nan,
    )


def _check_tokenizer(
    model: CausalLM,
    data: PreparedData,
    split: str,
    tokenizer: Tokenizer | None,
) -> None:
    rule = "the text must be prepared with the model's tokenizer (prepare it with tokenizer=...)"
    if data.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"{rule}; {data.folder} has {data.vocab_size} token ids, "
            f"the model {model.config.vocab_size}"
        )
    if tokenizer is None:
        return
    text = data.tokenizer.decode(data.split(split).read(0, 2000).tolist())
    if tokenizer.end_token_id != data.end_token_id or tokenizer.encode(
        text, parse_special=False
    ) != data.tokenizer.encode(text, parse_special=False):
        raise ValueError(f"{rule}; that of {data.folder} gives other token ids for the same text")
