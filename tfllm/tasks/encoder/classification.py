"""Classification of a text, or a pair of texts, such as by topic or sentiment."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.data.preparing.record_preparation import UnknownInTraining
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.tasks.encoder.encoder_task import EncoderTask, encoded_texts
from tfllm.tasks.encoder.text_classifier import TextClassifier
from tfllm.tasks.encoder.unknown_labels import label_index, unknown_labels
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric
    from tfllm.tokenizers.base import Tokenizer

_MOST_LABELS = 10_000
_MOST_DRAWN = 40
"""maximum number of labels in a picture"""


class Classification(EncoderTask):
    """Assign one of several labels to a text, or a pair of texts.

    The second text is, for example, the answer to a question or the hypothesis to a premise. A
    model learns the labels that occur in its training records, of which there must be at least two.
    """

    name = "classification"
    text_model_class = TextClassifier
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("sentence", "review", "content", "body", "message", "sentence1")),
        "second_text": Column(
            aliases=("text_pair", "sentence2", "second", "hypothesis"), required=False
        ),
        "label": Column(
            aliases=("class", "category", "sentiment", "target", "labels"),
            kind="label",
            is_input=False,
        ),
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """The labels in alphabetical order, and whether there are second texts.

        Raises:
            ValueError: there is only one label, or only some records have a second text.
        """
        counts = Counter(record["label"] for record in records)
        if len(counts) < 2:
            only = next(iter(counts), None)
            raise ValueError(
                f"a classifier needs at least two labels; all {len(records):,} training records "
                f"have {only!r}. Give records with another label (if a file is sorted by label, "
                "its first part may have only one)"
            )
        if len(counts) > _MOST_LABELS:
            raise ValueError(
                f"there must be at most {_MOST_LABELS:,} labels; received {len(counts):,}, such as "
                f"{next(iter(counts))!r}: is 'label' the right column?"
            )
        pairs = [record for record in records if record.get("second_text") is not None]
        if pairs and len(pairs) < len(records):
            lacking = next(r for r in records if r.get("second_text") is None)
            raise ValueError(
                f"either every record must have a second_text or none: {len(pairs):,} of "
                f"{len(records):,} have one, but {lacking.where} has none"
            )
        return {"labels": sorted(counts), "pairs": bool(pairs)}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """One example: `token_ids`, `token_type_ids`, and `label` [1], the index of the label."""
        label = label_index(record["label"], information["labels"])
        second = record.get("second_text")
        if (second is not None) != information["pairs"]:
            raise UnknownInTraining(
                "the training records have a second_text, but this one has none"
                if information["pairs"]
                else "the training records have no second_text, but this one has"
            )
        example = encoded_texts(tokenizer, record["text"], second, sequence_length)
        return [{**example, "label": np.array([label], np.int32)}]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch for `SequenceClassifier`: labels int32 [B], weights [B]."""
        labels = np.array([example["label"][0] for example in examples], np.int32)
        return RowBatch(
            self.batch_inputs(examples, sequence_length),
            labels,
            np.ones(len(examples), np.float32),
        )

    def head(
        self, encoder: Any, information: Mapping[str, Any], **options: Any
    ) -> SequenceClassifier:
        """A `SequenceClassifier` with the names of the labels."""
        return SequenceClassifier(encoder, label_names=information["labels"], **options)

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """Accuracy, macro-F1 and the expected calibration error."""
        from tfllm.evaluation.label_metrics import accuracy, calibration_error, macro_f1

        references = [record["label"] for record in records]
        predicted = [prediction["label"] or None for prediction in predictions]
        confidences = [prediction["probability"] for prediction in predictions]
        return [
            accuracy(references, predicted),
            macro_f1(references, predicted),
            calibration_error(references, predicted, confidences),
        ]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """A remark on records whose label the model was not trained with."""
        labels = [record["label"] for record in records]
        return unknown_labels(
            labels, served.labels, "records", "its answers to them count as wrong"
        )

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """Draw the confusion matrix, if matplotlib is installed and there are few enough labels."""
        from tfllm.evaluation.label_metrics import confusion_matrix

        labels = sorted({record["label"] for record in records})
        if len(labels) > _MOST_DRAWN or importlib.util.find_spec("matplotlib") is None:
            return []
        from tfllm.charts import model_charts

        references = [record["label"] for record in records]
        counts = confusion_matrix(references, [p["label"] or None for p in predictions], labels)
        figure = model_charts.confusion_matrix(counts, labels, title=f"{len(records):,} texts")
        return [model_charts.save(figure, folder / "confusion_matrix.png")]
