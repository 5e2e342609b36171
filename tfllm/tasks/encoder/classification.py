"""Classification: a text, or two, to one of some labels; sentiment is the same with its labels."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from tfllm.data.preparing.record_preparation import UnknownInTraining
from tfllm.data.reading.table_records import Column, Record
from tfllm.data.shards.splits import RowBatch
from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.tasks.encoder.encoder_inputs import encoder_inputs, is_blank
from tfllm.tasks.encoder.encoder_task import EncoderTask, encoded_texts
from tfllm.tasks.example_messages import example_texts
from tfllm.tasks.record_task import Example
from tfllm.tasks.text_model import TextModel, plain

if TYPE_CHECKING:
    from tfllm.evaluation.measures import Measure
    from tfllm.tokenizers.base import Tokenizer

CLASSIFY = "tensorflow/serving/classify"
"""the method of a signature that TensorFlow Serving answers `:classify` with"""
_MOST_LABELS = 10_000
_MOST_DRAWN = 40
"""labels in a picture"""
_TELL = 10


class Classification(EncoderTask):
    """Give a text, or a pair of texts, one of several labels.

    A second text is an answer to a question, a hypothesis to a premise and the like. A model learns
    the labels of its training records. Each must stand in at least one of them, and there must be
    at least two.
    """

    name = "classification"
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
        """The labels in the order of the alphabet, and whether there are second texts.

        Raises:
            ValueError: there is one label alone, or some records have a second text and others not.
        """
        counts = Counter(record["label"] for record in records)
        if len(counts) < 2:
            only = next(iter(counts), None)
            raise ValueError(
                f"a classifier needs at least two labels; all {len(records):,} training records "
                f"have {only!r}. Give records of another label (a file that is sorted by label "
                "and cut off, or a filter, leaves one)"
            )
        if len(counts) > _MOST_LABELS:
            raise ValueError(
                f"there may be at most {_MOST_LABELS:,} labels; received {len(counts):,}, such as "
                f"{next(iter(counts))!r}: is 'label' the right column?"
            )
        pairs = [record for record in records if record.get("second_text") is not None]
        if pairs and len(pairs) < len(records):
            lacking = next(r for r in records if r.get("second_text") is None)
            raise ValueError(
                f"either every record has a second_text or none: {len(pairs):,} of "
                f"{len(records):,} have one, and {lacking.where} has none"
            )
        return {"labels": sorted(counts), "pairs": bool(pairs)}

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[Example]:
        """One example: `token_ids`, `token_type_ids`, and `label` [1], its place in the labels."""
        label = label_id(record["label"], information)
        second = record.get("second_text")
        if (second is not None) != information["pairs"]:
            raise UnknownInTraining(
                "the training records have a second_text and this one has none"
                if information["pairs"]
                else "the training records have no second_text and this one has"
            )
        example = encoded_texts(tokenizer, record["text"], second, sequence_length)
        return [{**example, "label": np.array([label], np.int32)}]

    def batch(self, examples: Sequence[Example], sequence_length: int) -> RowBatch:
        """As `SequenceClassifier` is fitted: labels int32 [B], weights [B]."""
        labels = np.array([example["label"][0] for example in examples], np.int32)
        return RowBatch(
            self.batch_inputs(examples, sequence_length),
            labels,
            np.ones(len(examples), np.float32),
        )

    def head(
        self, encoder: Any, information: Mapping[str, Any], **options: Any
    ) -> SequenceClassifier:
        """A `SequenceClassifier` with the labels' names."""
        return SequenceClassifier(encoder, label_names=information["labels"], **options)

    def text_model(
        self, model: Any, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> TextClassifier:
        """A `TextClassifier`."""
        return TextClassifier(model, tokenizer, information)

    def measures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]
    ) -> list[Measure]:
        """Accuracy, macro-F1 and the expected calibration error."""
        from tfllm.evaluation.label_measures import accuracy, calibration_error, macro_f1

        references = [record["label"] for record in records]
        predicted = [prediction["label"] or None for prediction in predictions]
        confidences = [prediction["probability"] for prediction in predictions]
        return [
            accuracy(references, predicted),
            macro_f1(references, predicted),
            calibration_error(references, predicted, confidences),
        ]

    def remarks(self, records: Sequence[Record], served: Any) -> list[str]:
        """How many records have a label that the model has never seen."""
        unknown = Counter(r["label"] for r in records if r["label"] not in served.labels)
        if not unknown:
            return []
        told = ", ".join(map(repr, list(unknown)[:_TELL]))
        return [
            f"{sum(unknown.values()):,} of {len(records):,} records have labels that the model was "
            f"not trained with ({told}): its answers to them count as wrong"
        ]

    def pictures(
        self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[Path]:
        """The confusion matrix, where matplotlib is installed and the labels are not too many."""
        from tfllm.evaluation.label_measures import confusion_matrix

        labels = sorted({record["label"] for record in records})
        if len(labels) > _MOST_DRAWN or importlib.util.find_spec("matplotlib") is None:
            return []
        from tfllm.charts import model_charts

        references = [record["label"] for record in records]
        counts = confusion_matrix(references, [p["label"] or None for p in predictions], labels)
        figure = model_charts.confusion_matrix(counts, labels, title=f"{len(records):,} texts")
        return [model_charts.save(figure, folder / "confusion_matrix.png")]


def label_id(label: str, information: Mapping[str, Any]) -> int:
    """The place of a label among those that were trained on.

    Raises:
        ValueError: it was not.
    """
    labels = information["labels"]
    if label not in labels:
        told = ", ".join(map(repr, labels[:_TELL])) + (", ..." if len(labels) > _TELL else "")
        raise UnknownInTraining(
            f"the label {label!r} is none of those in the training records ({told})"
        )
    return labels.index(label)


class TextClassifier(TextModel):
    """A classifier as functions from text to labels.

    Signatures, of texts string [B]; `second_text` only where the model was trained with it:

        serving_default: `text` (and `second_text`) to `label` string [B], `probability` float32 [B]
            of that label; `labels` string [B, L] and `probabilities` float32 [B, L], all of them,
            the most probable first; `truncated_tokens` int32 [B], how many tokens the model did not
            see; `error` string [B] ("", or that the text is empty: then the label is "").
        classify: `inputs` string [B], tf.train.Example messages with the feature `text` (and
            `second_text`), to `classes` string [B, L] and `scores` float32 [B, L]: what TensorFlow
            Serving's Classify call and `:classify` run. Of a row that is refused (an empty text, a
            message that cannot be read, a feature that is missing, of another type, or of several
            values) all scores are 0 and the first class is "error: " and the reason, the others
            empty: this call has no other place for it. The other rows are answered.

    Args:
        model: a classifier.
        tokenizer: of the model.
        information: `labels`, and whether there are `pairs`.
    """

    task_name = "classification"

    def __init__(
        self, model: SequenceClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(name="text_classifier")
        self.model = model
        self.tokenizer = tokenizer
        self.information = dict(information)
        self.labels = tuple(information["labels"])
        self.has_pairs = bool(information.get("pairs"))
        context = model.config.max_sequence_length
        self.sequence_length = min(int(information.get("sequence_length", context)), context)
        if len(self.labels) != model.num_labels:
            raise ValueError(
                f"the model tells {model.num_labels} labels apart; received {len(self.labels)}"
            )
        self._graph = tokenizer.graph()
        self._label_names = tf.constant(self.labels)
        self._functions: dict[str, Any] = {}

    @property
    def signatures(self) -> dict[str, Any]:
        """`serving_default` and `classify`."""
        if not self._functions:
            specs = [tf.TensorSpec([None], tf.string, name) for name in self._feature_names]
            function = self._of_pair if self.has_pairs else self._of_text
            inputs = tf.TensorSpec([None], tf.string, "inputs")
            self._functions = {
                "serving_default": tf.function(function, input_signature=specs, autograph=False),
                "classify": tf.function(self._classify, input_signature=[inputs], autograph=False),
            }
        return self._functions

    @property
    def _feature_names(self) -> tuple[str, ...]:
        return ("text", "second_text") if self.has_pairs else ("text",)

    @property
    def method_names(self) -> dict[str, str]:
        """That of `classify`."""
        return {"classify": CLASSIFY}

    @property
    def served_state(self) -> dict[str, Any]:
        """The weights and the tokenizer."""
        return {"weights": self.model.weights, "tokenizer": self._graph}

    def with_dtype(self, dtype: str) -> TextClassifier:
        """The same with another dtype, or itself."""
        if dtype == self.model.dtype_policy.name:
            return self
        return type(self)(self.model.with_dtype(dtype), self.tokenizer, self.information)

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Of both signatures."""
        features = self._feature_names
        examples = [serialized_example(dict.fromkeys(features, text)) for text in texts]
        return [
            *super().warmup_requests(texts),
            ("classify", {"inputs": tf.constant(examples)}),
        ]

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`probabilities` of every label by name; what there is to tell only where there is."""
        given = {name: plain(value) for name, value in row.items()}
        return {
            "label": given["label"],
            "probability": given["probability"],
            "probabilities": dict(zip(given["labels"], given["probabilities"], strict=True)),
            "truncated_tokens": given["truncated_tokens"],
            "error": given["error"],
        }

    # ------------------------------------------------------------------ in the graph

    def _of_text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answers(text, None)

    def _of_pair(self, text: tf.Tensor, second_text: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answers(text, second_text)

    def _answers(self, text: tf.Tensor, second_text: tf.Tensor | None) -> dict[str, tf.Tensor]:
        probabilities, num_cut, error = self._probabilities(text, second_text)
        # Of equal ones the first by name is the first, as the order of the labels is.
        values, places = tf.math.top_k(probabilities, tf.shape(probabilities)[1])
        labels = tf.gather(self._label_names, places)
        good = error == ""
        return {
            "label": tf.where(good, labels[:, 0], ""),
            "probability": values[:, 0],
            "labels": labels,
            "probabilities": values,
            "truncated_tokens": num_cut,
            "error": error,
        }

    def _probabilities(
        self, text: tf.Tensor, second_text: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """float32 [B, L] in the labels' order, 0 where there is an error; int32 [B]; error [B]."""
        inputs, num_cut = encoder_inputs(
            self.tokenizer, self._graph, text, second_text, self.sequence_length
        )
        error = tf.where(is_blank(text), "the text is empty", "")
        logits = self.model(inputs, training=False)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        good = tf.cast(error == "", tf.float32)[:, tf.newaxis]
        return probabilities * good, num_cut, error

    def _classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        texts, refused = example_texts(inputs, self._feature_names)
        scores, _, error = self._probabilities(texts[0], texts[1] if self.has_pairs else None)
        error = tf.where(refused == "", error, refused)
        good = (error == "")[:, tf.newaxis]
        reason = tf.strings.join(["error: ", error])[:, tf.newaxis]
        others = tf.fill([tf.shape(scores)[0], len(self.labels) - 1], "")
        names = self._label_names[tf.newaxis]
        return {
            "classes": tf.where(good, names, tf.concat([reason, others], 1)),
            "scores": tf.where(good, scores, 0.0),
        }


def serialized_example(texts: Mapping[str, str]) -> bytes:
    """A tf.train.Example with features of one text each."""

    def feature(text: str) -> Any:
        value = text.encode("utf-8", "surrogatepass")
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {name: feature(text) for name, text in texts.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
