"""Requests with odd text in one string input of a signature, the other inputs held constant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tfllm.serving.checks.request import STRING, Request, common_rows
from tfllm.serving.saved_model.output_widths import shape_of

LONG_TEXT = b"It was the best of times, it was the worst of times. " * 80
ODD_TEXTS: dict[str, bytes] = {
    "a word": b"word",
    "an empty string": b"",
    "emoji and combining marks": "naïve e\u0301 👩‍👩‍👧 你好".encode(),
    "bytes that are not UTF-8": b"caf\xe9 \xff\xfe \xe4\xbd",
    "an embedded NUL": b"a\0b",
    "a long text": LONG_TEXT,
}
OTHER_TEXT = b"zyzzyva quixotic 7391 \xc3\xa6on"
"""words that are not in the odd texts, so that a table that stores words grows"""
EXAMPLE_METHODS = ("tensorflow/serving/classify", "tensorflow/serving/regress")
"""methods of signatures whose texts are tf.train.Example messages"""


class Probe:
    """One string input of a signature; the others keep the values of an example."""

    def __init__(self, name: str, signature: Any, key: str, example: dict[str, Any]) -> None:
        self.name, self.signature, self.key, self.example = name, signature, key, example
        shape = shape_of(signature.inputs[key])
        self.size = None if shape is None else 1 if not shape else shape[0]
        """number of rows that the input must have; None: any number"""

    def batches(self) -> list[list[tuple[str, bytes]]]:
        """The odd texts, in batches of the size that the input accepts."""
        texts = list(ODD_TEXTS.items())
        if self.size is None:
            return [texts]
        size = max(self.size, 1)
        starts = range(0, len(texts), size)
        return [[texts[(start + i) % len(texts)] for i in range(size)] for start in starts]

    def _value(self, text: bytes) -> bytes:
        """The text; for Classify and Regress, the example's message with it in every feature."""
        features = texts_of_message(self.example)
        if self.signature.method_name not in EXAMPLE_METHODS or features is None:
            return text
        import tensorflow as tf

        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
        message = tf.train.Features(feature=dict.fromkeys(features, value))
        return tf.train.Example(features=message).SerializeToString()

    def damaged(self) -> list[tuple[str, bytes]]:
        """Damaged messages, messages with features of other types, and a good one."""
        import tensorflow as tf

        good = self._value(b"word")
        names = texts_of_message(self.example) or []
        number = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
        two = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a", b"b"]))
        wrong = [
            tf.train.Example(features=tf.train.Features(feature=dict.fromkeys(names, value)))
            for value in (number, two)
        ]
        return [
            ("a good message", good),
            ("bytes that are not a message", b"\xff\xff"),
            ("a truncated message", good[:-1]),
            ("a message without features", b""),
            ("a number instead of a text", wrong[0].SerializeToString()),
            ("two texts instead of one", wrong[1].SerializeToString()),
        ]

    def of_messages(self, kind: str, messages: Iterable[tuple[str, bytes]]) -> Request:
        """A request whose rows are these serialized messages."""
        messages = list(messages)
        request = self.request(kind, messages)
        array = np.empty([len(messages)], object)
        array[:] = [message for _, message in messages]
        return replace(request, inputs={self.key: array})

    def request(self, kind: str, texts: Iterable[tuple[str, bytes]]) -> Request:
        """A request whose rows are these texts."""
        texts = list(texts)
        values = [self._value(text) for _, text in texts]
        inputs = {
            key: _input_rows(info, values, self.example[key], key == self.key)
            for key, info in self.signature.inputs.items()
        }
        return Request(
            f"input {self.key!r} of {self.name}",
            kind,
            self.name,
            inputs,
            tuple(sorted(self.signature.outputs)),
            common_rows(inputs),
            tuple(label for label, _ in texts),
        )


def example_inputs(name: str, signature: Any, known: list[Request]) -> dict[str, Any] | None:
    """Inputs of a signature to vary, from a request or made of texts; None if there are none."""
    inputs = signature.inputs
    example = next((dict(r.inputs) for r in known if r.signature == name), None)
    if example is None and all(info.dtype == STRING for info in inputs.values()):
        example = {key: np.array(b"a", object) for key in inputs}
    if signature.method_name in EXAMPLE_METHODS and texts_of_message(example) is None:
        return None  # its texts are messages with unknown features
    dense = all(info.WhichOneof("encoding") == "name" for info in inputs.values())
    return example if dense and example is not None and set(example) == set(inputs) else None


def texts_of_message(example: Mapping[str, Any] | None) -> list[str] | None:
    """Names of the text features in an example's message; None if it has other features, too."""
    if example is None or len(example) != 1:
        return None
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    (value,) = example.values()
    first = np.asarray(value, object).ravel()[:1]
    try:
        message = tf.train.Example.FromString(bytes(first[0]))
    except (DecodeError, IndexError, TypeError):
        return None
    features = message.features.feature
    if not features or any(f.WhichOneof("kind") != "bytes_list" for f in features.values()):
        return None
    return sorted(features)


def _input_rows(info: Any, texts: list[bytes], example: Any, probed: bool) -> np.ndarray:
    """A value for one input: the texts, or the first row of an example repeated for each text."""
    shape = shape_of(info)
    if shape == []:
        return np.array(texts[0], object) if probed else np.asarray(example)
    if probed:
        value = np.empty([len(texts), *(dim or 1 for dim in (shape or [None])[1:])], object)
        for index, text in enumerate(texts):
            value[index] = text
        return value
    value = np.asarray(example)
    if value.ndim == 0:  # not of a warm-up request
        value = value.reshape([1] * len(shape or [1]))
    return np.repeat(value[:1], len(texts), axis=0)
