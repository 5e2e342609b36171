"""Warm-up requests of a SavedModel: `assets.extra/tf_serving_warmup_requests`, replayed at load."""

from __future__ import annotations

import logging
from pathlib import Path

import tensorflow as tf

from tfllm.serving.errors import ServingError, from_exception
from tfllm.serving.servable import Servable

log = logging.getLogger("tfllm.serving")

MAX_RECORDS = 1000
"""TensorFlow Serving reads no more, and refuses a version that has more"""


def warm_up(servable: Servable, path: Path) -> int:
    """Replays the requests that a version brings along, one after the other.

    Args:
        servable: the loaded version.
        path: its folder.

    Returns:
        How many were run.

    Raises:
        ServingError: a request failed, or there are too many: the version must not be served.
    """
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not file.is_file():
        return 0
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        log.warning(
            "%s is not replayed: install tensorflow-serving-api (pip install 'tfllm[serve]')", file
        )
        return 0
    count = 0
    batched: set[str] = set()
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), 1):
            if number > MAX_RECORDS:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}",
                )
            entry = prediction_log_pb2.PredictionLog.FromString(record)
            kind = entry.WhichOneof("log_type")
            if kind != "predict_log":
                log.warning("warm-up record %d is a %s and is not replayed", number, kind)
                continue
            request = entry.predict_log.request
            signature = servable.signature(request.model_spec.signature_name)
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            signature.predict(inputs)
            if signature.name not in batched:
                batched.add(signature.name)
                signature.warm_up_batching(inputs)
            count += 1
    except Exception as error:
        problem = from_exception(error)
        raise ServingError(problem.code, f"warm-up request failed: {problem.message}") from None
    return count
