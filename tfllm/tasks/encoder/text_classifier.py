"""Text model that assigns labels to texts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfllm.models.heads.sequence_classifier import SequenceClassifier
from tfllm.tasks.encoder.encoder_inputs import blank_error, encoder_inputs
from tfllm.tasks.encoder.encoder_text_model import EncoderTextModel
from tfllm.tasks.example_messages import example_texts
from tfllm.tasks.text_model import plain, text_function

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

CLASSIFY = "tensorflow/serving/classify"
"""method name of a signature that TensorFlow Serving's Classify call requires"""


class TextClassifier(EncoderTextModel):
    """Text model that assigns labels to texts.

    Signatures; `second_text` is only an input if the model was trained with it:

        serving_default: takes `text` (and `second_text`), string [B], and returns `label` string
            [B], `probability` float32 [B] of that label; all `labels` string [B, L] and
            `probabilities` float32 [B, L], most probable first; `truncated_tokens` int32 [B], the
            number of tokens that were cut off; `error` string [B] ("", or that the text is empty:
            then the label is "").
        classify: takes `inputs` string [B], tf.train.Example messages with the feature `text` (and
            `second_text`), and returns `classes` string [B, L] and `scores` float32 [B, L]. It is
            used by TensorFlow Serving's Classify call and `:classify`. If a row is refused (an
            empty text, an unreadable message, a feature that is missing, of another type, or with
            several values), all its scores are 0, the first class is "error: " and the reason, and
            the others are empty, since this call has no other output for errors. The other rows are
            not affected.

    Args:
        model: a sequence classifier.
        tokenizer: tokenizer of the model.
        information: information of the task: `labels`, and `pairs` if there are second texts.
    """

    task_name = "classification"

    def __init__(
        self, model: SequenceClassifier, tokenizer: Tokenizer, information: Mapping[str, Any]
    ) -> None:
        super().__init__(model, tokenizer, information)
        self.labels = tuple(information["labels"])
        self.has_pairs = bool(information.get("pairs"))
        if len(self.labels) != model.num_labels:
            raise ValueError(
                f"the model has {model.num_labels} labels; received {len(self.labels)}"
            )
        self._label_names = tf.constant(self.labels)

    @functools.cached_property
    def signatures(self) -> dict[str, Any]:
        """`serving_default` and `classify`."""
        function = self._of_pair if self.has_pairs else self._of_text
        return {
            "serving_default": text_function(function, *self._feature_names),
            "classify": text_function(self._classify, "inputs"),
        }

    @property
    def _feature_names(self) -> tuple[str, ...]:
        return ("text", "second_text") if self.has_pairs else ("text",)

    @property
    def method_names(self) -> dict[str, str]:
        """The method name of `classify`."""
        return {"classify": CLASSIFY}

    def warmup_requests(self, texts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
        """Warm-up requests for both signatures."""
        features = self._feature_names
        examples = [serialized_example(dict.fromkeys(features, text)) for text in texts]
        return [
            *super().warmup_requests(texts),
            ("classify", {"inputs": tf.constant(examples)}),
        ]

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The answer for a row, with `probabilities` as a dictionary by label."""
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
        probabilities, num_truncated, error = self._probabilities(text, second_text)
        # Equal probabilities keep the alphabetical order of the labels.
        values, places = tf.math.top_k(probabilities, tf.shape(probabilities)[1])
        labels = tf.gather(self._label_names, places)
        good = error == ""
        return {
            "label": tf.where(good, labels[:, 0], ""),
            "probability": values[:, 0],
            "labels": labels,
            "probabilities": values,
            "truncated_tokens": num_truncated,
            "error": error,
        }

    def _probabilities(
        self, text: tf.Tensor, second_text: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Probabilities float32 [B, L], 0 for rows with an error; tokens cut off int32 [B]; errors
        string [B]."""
        inputs, num_truncated = encoder_inputs(
            self.tokenizer, self._graph, text, second_text, self.sequence_length
        )
        error = blank_error(text)
        logits = self.model(inputs, training=False)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        good = tf.cast(error == "", tf.float32)[:, tf.newaxis]
        return probabilities * good, num_truncated, error

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
    """A serialized tf.train.Example whose features are one text each."""

    def feature(text: str) -> Any:
        value = text.encode("utf-8", "surrogatepass")
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {name: feature(text) for name, text in texts.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
