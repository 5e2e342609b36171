"""TensorFlow Serving's Classify: tf.train.Example messages in, classes with their scores out.

A signature that it can run has one input, `inputs` (string [B], serialized examples), and one or
both of the outputs `classes` (string [B, L]) and `scores` (float [B, L]).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfllm.serving.protocol.errors import ServingError, invalid_argument
from tfllm.serving.protocol.json_reply import decimals
from tfllm.serving.protocol.json_request import (
    RepeatedKeys,
    is_base64,
    json_type,
    read_base64,
    read_json,
)
from tfllm.serving.server.servable import DEFAULT_SIGNATURE, Prediction, Servable, Signature

_INT64 = 2**63


class ClassifyRequest(NamedTuple):
    """A request to classify examples."""

    signature_name: str
    """"" for the default one"""
    examples: list[bytes]
    """serialized tf.train.Example messages"""


class Classes(NamedTuple):
    """The classes of each example."""

    labels: np.ndarray | None
    """bytes [B, L]"""
    scores: np.ndarray | None
    """float32 [B, L]"""
    signature: str
    """name of the signature that ran"""
    prediction: Prediction


def read_classify(body: bytes) -> ClassifyRequest:
    """A `:classify` body: `{"signature_name", "context", "examples": [{feature: value}, ...]}`.

    Raises:
        ServingError: INVALID_ARGUMENT for a body that breaks a rule.
    """
    document, _ = read_json(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument("'signature_name' key must be a string value.")
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid_argument(
            "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise invalid_argument("Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument("'examples' value is an empty array")
    context = _example(document["context"]) if "context" in document else b""
    # Where two messages are concatenated, the features of the second override the first's.
    return ClassifyRequest(name, [context + _example(example) for example in examples])


def of_proto(request: Any) -> ClassifyRequest:
    """The same request from a ClassificationRequest of gRPC."""
    kind = request.input.WhichOneof("kind")
    context, examples = b"", []
    if kind == "example_list":
        examples = request.input.example_list.examples
    elif kind == "example_list_with_context":
        given = request.input.example_list_with_context
        context, examples = given.context.SerializeToString(), given.examples
    serialized = [context + example.SerializeToString() for example in examples]
    return ClassifyRequest(request.model_spec.signature_name, serialized)


def classify(servable: Servable, request: ClassifyRequest) -> Classes:
    """Run the signature that a request names.

    Raises:
        ServingError: there is no such signature, it does not support Classify, or the model failed.
    """
    name = request.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    if not request.examples:
        raise invalid_argument("Input is empty.")
    _check(signature)
    rows = len(request.examples)
    prediction = signature.predict({"inputs": np.array(request.examples, np.object_)})
    found = {key: prediction.outputs.get(key) for key in ("classes", "scores")}
    for key, kind in (("classes", np.object_), ("scores", np.float32)):
        array = found[key]
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}"
            )
        if array.dtype != kind:
            wanted = "DT_STRING" if kind is np.object_ else "DT_FLOAT"
            raise invalid_argument(f"Expected {key} Tensor of {wanted}. Got: {array.dtype.name}")
        if array.shape[0] != rows:
            raise invalid_argument(
                f"Expected {key} output batch size of {rows}. Got: {array.shape[0]}"
            )
    labels, scores = found["classes"], found["scores"]
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{labels.shape[1]} vs. {scores.shape[1]}"
        )
    return Classes(labels, scores, name, prediction)


def write_classify(classes: Classes) -> bytes:
    """The reply `{"results": [[[label, score], ...], ...]}`.

    A model without labels gets "" as labels, and one without scores gets 0 as scores. Bytes that
    are not UTF-8 are replaced in labels.
    """
    one = classes.labels if classes.labels is not None else classes.scores
    assert one is not None
    if classes.labels is None:
        labels = ['""'] * one.size
    else:
        texts = (label.decode("utf-8", "replace") for label in classes.labels.ravel())
        labels = [json.dumps(text, ensure_ascii=False) for text in texts]
    scores = ["0.0"] * one.size if classes.scores is None else decimals(classes.scores.ravel())
    pairs = [f"[{label}, {score}]" for label, score in zip(labels, scores, strict=True)]
    width = one.shape[1]
    rows = [", ".join(pairs[row * width : (row + 1) * width]) for row in range(one.shape[0])]
    return f'{{"results": [[{"], [".join(rows)}]]}}'.encode()


def _check(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if "inputs" not in signature.inputs:
        raise ServingError(
            "FAILED_PRECONDITION",
            f"No classification inputs found in SignatureDef: {signature.name}",
        )
    if not {"classes", "scores"} & set(signature.outputs):
        raise ServingError(
            "FAILED_PRECONDITION",
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature.name}',
        )


def _example(value: Any) -> bytes:
    """An example, serialized. Its features are values, or lists of values of one type."""
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {json_type(value)}")
    # If a feature is given twice, TensorFlow Serving keeps the last one; of other keys the first.
    contents = value.last if isinstance(value, RepeatedKeys) else value
    features = {name: _feature(name, content) for name, content in contents.items()}
    if not features:
        return b""
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _feature(name: str, content: Any) -> Any:
    values = content if isinstance(content, list) else [content]
    read = [_value(name, value) for value in values]
    kinds = {kind for kind, _ in read}
    if len(kinds) > 1:
        raise invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: {read[0][0]}"
        )
    numbers = [value for _, value in read]
    if kinds == {"bytes"}:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=numbers))
    if kinds == {"float"}:
        return tf.train.Feature(float_list=tf.train.FloatList(value=numbers))
    if kinds == {"int64"}:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))
    return tf.train.Feature()


def _value(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, bool):
        return "int64", int(value)
    if isinstance(value, int):
        if -_INT64 <= value < _INT64:
            return "int64", value
        if _INT64 <= value < 2 * _INT64:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        value = float(value)  # as the parser of TensorFlow Serving does
    if isinstance(value, float):
        return "float", value
    if isinstance(value, str):
        return "bytes", value.encode("utf-8", "surrogateescape")
    if is_base64(value):
        return "bytes", read_base64(value)
    raise invalid_argument(
        f"Feature: {name} has element with unexpected JSON type: {json_type(value)}"
    )
