"""Masked language modeling: pretrain an encoder on text, and fill gaps in texts."""

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
from tfllm.tasks.encoder.encoder_task import EncoderTask, example_with_special_tokens
from tfllm.tasks.encoder.gap_filling import GapFilling, token_masking
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric
    from tfllm.tokenizers.base import Tokenizer


class MaskedText(EncoderTask):
    """Predict masked tokens of a text (Devlin et al., 2019), which pretrains an encoder.

    The masked tokens are drawn again at each step (`TokenMasking`). A long text is cut into pieces
    of the sequence length. All other tasks of an encoder can be fine-tuned from the resulting
    model folder.
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
        """Empty, since the model needs no information from the records."""
        return {}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """An example per piece of the text, [CLS] piece [SEP]: `token_ids`, `token_type_ids`."""
        ids = tokenizer.encode(record["text"], add_special=False, parse_special=False)
        room = sequence_length - 2
        return [
            example_with_special_tokens(tokenizer, ids[begin : begin + room])
            for begin in range(0, len(ids), room)
        ]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch for `MaskedLanguageModel` with `masking`: labels and weights [B, T]."""
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

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """Accuracy and perplexity on masked tokens."""
        from tfllm.evaluation.metrics import of_sums

        names = ("num_right", "log_prob", "num_hidden")
        sums = np.array([[p[name] for name in names] for p in predictions], np.float64)
        return [
            of_sums("accuracy", sums, lambda s: s[:, 0] / s[:, 2], note="of masked tokens"),
            of_sums(
                "perplexity",
                sums,
                lambda s: np.exp(-s[:, 1] / s[:, 2]),
                note="of masked tokens",
                higher_is_better=False,
            ),
        ]
