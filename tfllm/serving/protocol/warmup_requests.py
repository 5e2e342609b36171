"""Reads and writes warm-up requests: a TFRecord file of TensorFlow Serving's PredictionLog.

The few fields that are needed are read from the wire format, so that TensorFlow Serving's Python
package is not required. The field numbers are from tensorflow_serving/apis/{prediction_log,predict,
classification,regression,input,model}.proto.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_RECORDS = 1000
"""TensorFlow Serving refuses to load a model with more records"""
_LOG_TYPES = {2: "classify", 3: "regress", 4: "multi_inference", 5: "session_run", 6: "predict"}
_LOG_TYPES[7] = "predict_streamed"


class WarmupError(ValueError):
    """The file cannot be read, so TensorFlow Serving would not load the model."""


@dataclass(frozen=True)
class WarmupRequest:
    """A record of the file."""

    kind: str
    """"predict", "classify", "regress", "multi_inference", "session_run", "predict_streamed" """
    signature: str = "serving_default"
    inputs: dict[str, Any] | None = None
    """of a predict request, input name to a NumPy array (bytes objects for strings); of a classify
    or regress request, the serialized examples as "inputs" """
    output_filter: tuple[str, ...] = ()
    """names of the outputs to fetch; empty for all"""


def read_warmup_requests(path: Path) -> tuple[list[WarmupRequest], int]:
    """Read the first 1,000 requests in a file.

    Returns:
        The requests, and the number of records in the file (counted up to 1,001).

    Raises:
        WarmupError: the file or a record cannot be parsed.
    """
    import tensorflow as tf

    requests = []
    records = 0
    try:
        # The file is opened by the loop and not before, so errors are raised here.
        for record in itertools.islice(tf.data.TFRecordDataset(str(path)), MAX_RECORDS + 1):
            records += 1
            if records <= MAX_RECORDS:
                requests.append(_prediction_log(record.numpy()))
    except tf.errors.OpError as error:
        raise WarmupError(f"record {records + 1} is damaged: {error.message}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise WarmupError(f"record {records} is not a PredictionLog: {error}") from error
    return requests, records


def _prediction_log(record: bytes) -> WarmupRequest:
    logs = [(_LOG_TYPES[n], value) for n, value in _fields(record) if n in _LOG_TYPES]
    if not logs:
        raise ValueError("it has no request")
    kind, log = logs[-1]
    message = b"".join(value for number, value in _fields(log) if number == 1)
    if kind in ("classify", "regress"):
        return _example_request(kind, message)
    return _predict_request(message) if kind == "predict" else WarmupRequest(kind)


def _example_request(kind: str, message: bytes) -> WarmupRequest:
    """A ClassificationRequest or a RegressionRequest, which have the same fields."""
    signature, examples = "", []
    for number, value in _fields(message):
        if number == 1:
            signature = _signature(value) or signature
        elif number == 2:  # input: a list of examples, with or without a common context
            for form, given in _fields(value):
                parts = list(_fields(given))
                # Where two messages are concatenated, the second's features override the first's.
                context = b"".join(part for inner, part in parts if form == 2 and inner == 2)
                examples = [context + part for inner, part in parts if inner == 1]
    inputs = {"inputs": np.array(examples, np.object_)}
    return WarmupRequest(kind, signature or "serving_default", inputs)


def _signature(model_spec: bytes) -> str:
    return "".join(value.decode() for number, value in _fields(model_spec) if number == 3)


def _predict_request(message: bytes) -> WarmupRequest:
    from tensorflow import make_ndarray
    from tensorflow.core.framework import tensor_pb2

    signature, inputs, output_filter = "", {}, []
    for number, value in _fields(message):
        if number == 1:
            signature = _signature(value) or signature
        elif number == 2:  # an entry of the map `inputs`
            entry = dict(_fields(value))
            key = entry.get(1, b"").decode()
            inputs[key] = make_ndarray(tensor_pb2.TensorProto.FromString(entry.get(2, b"")))
        elif number == 3:
            output_filter.append(value.decode())
    return WarmupRequest("predict", signature or "serving_default", inputs, tuple(output_filter))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: bytes if length-delimited, else an int or bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        shift = value = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            yield number, varint()
            continue
        sizes = {1: 8, 5: 4}
        if wire_type != 2 and wire_type not in sizes:
            raise ValueError(f"wire type {wire_type} in field {number}")
        size = varint() if wire_type == 2 else sizes[wire_type]
        if position + size > len(message):
            raise ValueError(f"field {number} is truncated")
        value = message[position : position + size]
        position += size
        yield number, value


def write_warmup_requests(
    path: Path, requests: Iterable[tuple[str, str, Mapping[str, Any]]]
) -> None:
    """Write predict requests that a server runs when it loads the model.

    Args:
        path: the file, `assets.extra/tf_serving_warmup_requests` of a version.
        requests: for each request, the model's name, the signature's name, and the inputs (name to
            array or tensor).
    """
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for model, signature, inputs in requests:
            spec = _field(1, model.encode()) + _field(3, signature.encode())
            request = _field(1, spec)
            for name, value in inputs.items():
                tensor = tf.make_tensor_proto(value).SerializeToString()
                request += _field(2, _field(1, name.encode()) + _field(2, tensor))
            writer.write(_field(6, _field(1, request)))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    size, length = b"", len(value)
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value
