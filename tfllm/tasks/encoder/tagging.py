"""Tagging: find labelled spans in a text, such as the names of people and places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.padding import padded
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.token_classifier import TokenClassifier
from tfllm.tasks.encoder.encoder_task import EncoderTask, example_with_special_tokens, readable
from tfllm.tasks.encoder.span_labels import Span, read_spans, tags_of, token_tags
from tfllm.tasks.encoder.span_tagger import OVERLAP, SpanTagger, continuing_ids, room_of
from tfllm.tasks.encoder.unknown_labels import unknown_labels
from tfllm.tasks.encoder.windows import windows_of
from tfllm.tasks.record_task import Example

if TYPE_CHECKING:
    from tfllm.evaluation.metrics import Metric
    from tfllm.tokenizers.base import Tokenizer


class Tagging(EncoderTask):
    """Find and label spans of a text, such as the names of people and places.

    Spans consist of whole words and do not overlap. Words are tagged B- (first word of a span), I-
    (further words) or O at their first token. A text longer than `sequence_length` is divided into
    windows that overlap by a quarter; each word is learned and predicted in the window with more
    context around it.

    Records: JSON lines with `text` and `spans`, a list of `{"begin", "end", "label"}` in characters
    (`end` exclusive); or the tagged words of CoNLL (`tfllm.data.reading.conll`).
    """

    name = "tagging"
    text_model_class = SpanTagger
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(aliases=("sentence", "content")),
        "spans": Column(aliases=("entities", "annotations", "labels"), kind="json", is_input=False),
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {
        **EncoderTask.training_defaults,
        "sequence_length": 192,
    }

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """The labels in alphabetical order.

        Invalid spans are ignored here; `examples` reports their places.

        Raises:
            ValueError: there is no span.
        """
        found, first = readable(records, _spans_of)
        labels = {span.label for spans in found for span in spans}
        if not labels:
            raise ValueError(
                f"none of the {len(records):,} training records has a valid span{first}; give "
                "records with spans, such as "
                '"spans": [{"begin": 0, "end": 3, "label": "NAME"}]'
            )
        return {"labels": sorted(labels)}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """An example per window: `token_ids`, `token_type_ids`, `tags`, `counts` (1: learned)."""
        text, spans = record["text"], _spans_of(record)
        ids, offsets = tokenizer.encode_with_offsets(text, parse_special=False, add_special=False)
        continuing = continuing_ids(tokenizer)
        tags = token_tags(text, spans, ids, offsets, continuing, information["labels"])
        room = room_of(sequence_length)
        examples = []
        for window in windows_of(len(ids), room, room // OVERLAP):
            example = example_with_special_tokens(tokenizer, ids[window.begin : window.end])
            inside = range(window.begin, window.end)
            owned = range(window.own_begin, window.own_end)
            counts = [0, *(int(i in owned and tags[i] >= 0) for i in inside), 0]
            example["tags"] = np.array([0, *(max(tags[i], 0) for i in inside), 0], np.int32)
            example["counts"] = np.array(counts, np.int32)
            examples.append(example)
        return examples

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """A batch for `TokenClassifier`: labels int32 [B, T], weights [B, T]."""
        tags = padded([example["tags"] for example in examples], sequence_length)
        counts = padded([example["counts"] for example in examples], sequence_length)
        inputs = self.batch_inputs(examples, sequence_length)
        return RowBatch(inputs, tags, counts.astype(np.float32))

    def head(self, encoder: Any, information: Mapping[str, Any], **options: Any) -> TokenClassifier:
        """A `TokenClassifier` of the tags O, B- and I-."""
        return TokenClassifier(encoder, label_names=tags_of(information["labels"]), **options)

    def metrics(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Metric]:
        """F1, precision and recall of spans, which must match in both ends and the label."""
        from tfllm.evaluation.label_metrics import span_f1, span_precision, span_recall

        predicted = [
            [(span["begin"], span["end"], span["label"]) for span in prediction["spans"]]
            for prediction in predictions
        ]
        true = [[tuple(span) for span in _spans_of(record)] for record in records]
        return [of(true, predicted) for of in (span_f1, span_precision, span_recall)]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """A remark on spans whose label the model was not trained with."""
        labels = [span.label for record in records for span in _spans_of(record)]
        return unknown_labels(labels, served.labels, "spans", "it cannot find them")


def _spans_of(record: Record) -> list[Span]:
    return read_spans(record["spans"], record["text"])
