"""Masked tokens: how an encoder is pretrained, from text alone; and text with gaps filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm import pretrained
from tfllm.config import TrainingConfig
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.masked_language_model import MaskedLanguageModel
from tfllm.optimization.precision import dtype_policy
from tfllm.tasks.encoder.encoder_task import EncoderTask, surrounded_ids
from tfllm.tasks.encoder.gap_filling import GapFilling, token_masking
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.tokenizers.base import Tokenizer


class MaskedText(EncoderTask):
    """Predict the hidden tokens of a text (Devlin et al., 2019): how an encoder is pretrained.

    Which tokens those are is drawn anew at each step (`TokenMasking`). A long text is cut into
    stretches of the sequence length. What is learned is the encoder: any other task of an encoder
    begins with the folder that this one leaves.
    """

    name = "masked_language_model"
    head_class = MaskedLanguageModel
    text_model_class = GapFilling
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("content", "sentence", "document", "review", "body")),
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "batch_size": 32,
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """The text in stretches, each `token_ids` and `token_type_ids`: [CLS] stretch [SEP]."""
        ids = tokenizer.encode(record["text"], add_special=False, parse_special=False)
        room = sequence_length - 2
        return [
            surrounded_ids(tokenizer, ids[begin : begin + room])
            for begin in range(0, len(ids), room)
        ]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """As a `MaskedLanguageModel` with `masking` is fitted: labels and weights [B, T]."""
        inputs = self.batch_inputs(examples, sequence_length)
        return RowBatch(inputs, inputs["token_ids"], inputs["padding_mask"].astype(np.float32))

    def model(
        self,
        base: str | None,
        config: Any,
        information: Mapping[str, Any],
        training: TrainingConfig,
        tokenizer: Tokenizer,
    ) -> MaskedLanguageModel:
        """A new model, a head on a pretrained encoder, or a pretrained one with its head."""
        found = None
        if base is not None:
            found = pretrained.load(
                base,
                seed=training.seed,
                dtype=dtype_policy(training.precision),
                rematerialize=training.rematerialize,
            ).model
        if not isinstance(found, MaskedLanguageModel):
            made = super().model(base, config, information, training, tokenizer)
            assert isinstance(made, MaskedLanguageModel)
            found = made
        found.masking = token_masking(tokenizer, training.seed)
        return found

    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """The share of hidden tokens that are told, and their perplexity."""
        from tfllm.evaluation.measures import of_sums

        names = ("num_right", "log_prob", "num_hidden")
        sums = np.array([[p[name] for name in names] for p in predictions], np.float64)
        return [
            of_sums("accuracy", sums, lambda s: s[:, 0] / s[:, 2], note="of hidden tokens"),
            of_sums(
                "perplexity",
                sums,
                lambda s: np.exp(-s[:, 1] / s[:, 2]),
                note="of hidden tokens",
                higher_is_better=False,
            ),
        ]
