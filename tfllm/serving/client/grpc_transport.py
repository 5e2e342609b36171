"""The client's connection to a server over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfllm.serving.protocol.errors import CODES, ServingError


class GrpcTransport:
    """TensorFlow Serving's gRPC. The arguments are those of `RestTransport`; the port is 8500.

    Raises:
        ValueError: grpcio or tensorflow-serving-api is not installed.
    """

    def __init__(
        self,
        address: str | None,
        model: str,
        version: int | None,
        label: str | None,
        timeout: float,
    ) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(
                f"protocol='grpc' requires grpcio and tensorflow-serving-api ({error}): "
                "pip install 'tfllm[serve]'; protocol='rest' requires neither"
            ) from None
        self._address = address or "127.0.0.1:8500"
        self._timeout = timeout
        self._spec = (model, version, label)
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(self._address, options=unlimited)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._error = grpc.RpcError

    def predict(
        self, inputs: dict[str, Any], signature_name: str, signature: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Run a signature; returns output name to array."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature_name
        for name, value in inputs.items():
            dtype = signature["inputs"].get(name, {}).get("dtype")
            kind = None if dtype is None else tf.as_dtype(dtype.removeprefix("DT_").lower())
            try:
                request.inputs[name].CopyFrom(tf.make_tensor_proto(_plain(value), dtype=kind))
            except (TypeError, ValueError) as error:
                raise ServingError(
                    "INVALID_ARGUMENT", f"input {name} is not of type {dtype}: {error}"
                ) from None
        response = self._call(self._predictions.Predict, request)
        outputs = {}
        for name, proto in response.outputs.items():
            array = np.asarray(tf.make_ndarray(proto))
            if array.dtype == np.object_ and not name.endswith("_bytes"):
                flat = [item.decode("utf-8", "replace") for item in array.ravel()]
                array = np.array([*flat, None], np.object_)[:-1].reshape(array.shape)
            outputs[name] = array
        return outputs

    def classify(
        self, examples: Sequence[Mapping[str, str]], signature_name: str
    ) -> list[list[tuple[str, float]]]:
        """The classes of each example, with their scores."""
        from tensorflow_serving.apis import classification_pb2

        request = classification_pb2.ClassificationRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature_name
        for features in examples:
            feature = request.input.example_list.examples.add().features.feature
            for name, text in features.items():
                feature[name].bytes_list.value.append(text.encode("utf-8", "surrogatepass"))
        response = self._call(self._predictions.Classify, request)
        return [
            [(entry.label, entry.score) for entry in row.classes]
            for row in response.result.classifications
        ]

    def status(self) -> list[dict[str, Any]]:
        """The versions of the model."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            {
                "version": entry.version,
                "state": states.Name(entry.state),
                "error_code": CODES[entry.status.error_code],
                "error_message": entry.status.error_message,
            }
            for entry in self._call(self._models.GetModelStatus, request).model_version_status
        ]

    def metadata(self) -> dict[str, Any]:
        """The signatures of the model, in the form that REST gives."""
        from google.protobuf.json_format import MessageToDict
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest()
        self._fill(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._predictions.GetModelMetadata, request)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(definitions)

        def convert(message: Any) -> dict[str, Any]:
            return MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )

        return {
            "model_spec": convert(response.model_spec),
            "metadata": {"signature_def": convert(definitions)},
        }

    def chat_template(self) -> str | None:
        """None, because the template cannot be requested over gRPC."""
        return None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _fill(self, model_spec: Any) -> None:
        model_spec.name, version, label = self._spec
        if version is not None:
            model_spec.version.value = version
        if label is not None:
            model_spec.version_label = label

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except self._error as error:
            code, details = error.code().name, error.details() or ""
            if code == "UNAVAILABLE" and "onnect" in details:
                details = (
                    f"no server answers at {self._address}: start one with `tfllm serve "
                    "saved_models`, or give the address of one (the default port of gRPC is "
                    f"8500). {details}"
                )
            raise ServingError(code, details) from None


def _plain(value: Any) -> Any:
    """Convert object arrays of strings to lists, which TensorFlow reads as strings."""
    if isinstance(value, np.ndarray) and value.dtype == np.object_:
        return value.tolist()
    return value.numpy() if hasattr(value, "numpy") else value
