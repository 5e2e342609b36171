"""TensorFlow Serving's Regress: tf.train.Example messages in, one number for each out.

A signature that it can run has one input, `inputs` (string [B], serialized examples), and one
output, `outputs` (float [B] or [B, 1]).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfllm.serving.protocol.errors import invalid_argument
from tfllm.serving.protocol.json_reply import decimals
from tfllm.serving.server.classify import ClassifyRequest
from tfllm.serving.server.servable import DEFAULT_SIGNATURE, Prediction, Servable, Signature


class Regressions(NamedTuple):
    """The value of each example."""

    values: np.ndarray
    """float32 [B]"""
    signature: str
    """name of the signature that ran"""
    prediction: Prediction


def regress(servable: Servable, request: ClassifyRequest) -> Regressions:
    """Run the signature that a request names. It has the form of a request for Classify.

    Raises:
        ServingError: there is no such signature, it does not support Regress, or the model failed.
    """
    name = request.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    _check(signature)
    if not request.examples:
        raise invalid_argument("Input is empty.")
    rows = len(request.examples)
    prediction = signature.predict({"inputs": np.array(request.examples, np.object_)})
    values = prediction.outputs["outputs"]
    if values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{list(values.shape)}"
        )
    if values.shape[0] != rows:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {rows} vs. {values.shape[0]}"
        )
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT. Got: {values.dtype.name}")
    return Regressions(values.reshape(rows), name, prediction)


def write_regress(regressions: Regressions) -> bytes:
    """The reply `{"results": [value, ...]}`."""
    return f'{{"results": [{", ".join(decimals(regressions.values))}]}}'.encode()


def _check(signature: Signature) -> None:
    for what, names in (("input", signature.inputs), ("output", signature.outputs)):
        if len(names) != 1:
            raise invalid_argument(f"Expected one {what} Tensor.")
        if f"{what}s" not in names:
            raise invalid_argument(
                f"No regression {what}s found in SignatureDef: {signature.name}; the {what} must "
                f"be named '{what}s'"
            )
