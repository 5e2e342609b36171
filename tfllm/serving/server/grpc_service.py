"""TensorFlow Serving's gRPC services: PredictionService and ModelService."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tfllm.serving.protocol.errors import CODES, ServingError, from_exception, invalid_argument
from tfllm.serving.server.batching import RequestLimit
from tfllm.serving.server.classify import classify, of_proto
from tfllm.serving.server.metrics import Metrics
from tfllm.serving.server.regress import regress
from tfllm.serving.server.repository import Repository

# The field of a TensorProto for the values of a NumPy type. As in TensorFlow Serving, it is filled
# instead of `tensor_content`, because clients in other languages read only this field.
_FIELDS = {
    np.dtype(np.float32): "float_val",
    np.dtype(np.float64): "double_val",
    np.dtype(np.int8): "int_val",
    np.dtype(np.int16): "int_val",
    np.dtype(np.int32): "int_val",
    np.dtype(np.uint8): "int_val",
    np.dtype(np.uint16): "int_val",
    np.dtype(np.int64): "int64_val",
    np.dtype(np.uint32): "uint32_val",
    np.dtype(np.uint64): "uint64_val",
    np.dtype(np.bool_): "bool_val",
    np.dtype(np.object_): "string_val",
}


def create_grpc_server(
    repository: Repository,
    metrics: Metrics,
    executor: Executor,
    limit: RequestLimit,
    *,
    max_message_bytes: int,
) -> grpc.Server:
    """Create a server with both services. It is not started and has no port.

    Args:
        repository: the models.
        metrics: counts the requests.
        executor: threads that answer, one for each request that runs or waits.
        limit: limit of the requests that run or wait, over REST and gRPC together. It also limits
            the gRPC calls that wait for a thread; further calls get RESOURCE_EXHAUSTED.
        max_message_bytes: longest request, in bytes.
    """
    server = grpc.server(
        executor,
        maximum_concurrent_rpcs=limit.limit,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port that is in use is an error
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(repository, metrics, limit), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        _ModelService(repository, metrics), server
    )
    return server


class _Answering:
    """Turns errors into status codes and counts requests."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    def answer(
        self, context: Any, call: Callable[[], Any], *, count: tuple[str, str] | None = None
    ) -> Any:
        """Call `call` and return its reply.

        Args:
            context: gRPC's context, which gets the status code of an error.
            call: answers the request.
            count: names of the model and of the call, for the metrics. Requests for the status or
                the metadata are not counted, as in TensorFlow Serving.
        """
        start = time.perf_counter()
        problem = None
        try:
            reply = call()
        except Exception as error:
            problem = from_exception(error)
        if count is not None:
            model, api = count
            known = model if self._repository.has(model) else ""
            code = "OK" if problem is None else problem.code
            self._metrics.request(known, api, "GRPC", code, time.perf_counter() - start)
        if problem is not None:
            context.abort(_STATUS[CODES.index(problem.code)], problem.message)
        return reply


_STATUS = {code.value[0]: code for code in grpc.StatusCode}


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer, _Answering):
    def __init__(self, repository: Repository, metrics: Metrics, limit: RequestLimit) -> None:
        super().__init__(repository, metrics)
        self._limit = limit

    def Predict(self, request: Any, context: Any) -> Any:
        """Run a signature; `output_filter` selects its outputs."""
        return self.answer(
            context, lambda: self._predict(request), count=(request.model_spec.name, "Predict")
        )

    def _predict(self, request: Any) -> Any:
        with self._limit.hold(), self._repository.acquire(**_spec(request.model_spec)) as servable:
            signature = servable.signature(request.model_spec.signature_name)
            wanted = list(request.output_filter) or list(signature.outputs)
            for position, name in enumerate(wanted):
                if name not in signature.outputs:
                    raise invalid_argument(
                        f"output tensor alias not found in signature: {name} Outputs expected to "
                        f"be in the set {{{','.join(signature.outputs)}}}."
                    )
                if name in wanted[:position]:
                    raise invalid_argument(f"duplicate output tensor alias: {name}")
            prediction = signature.predict(
                {name: _array(name, proto) for name, proto in request.inputs.items()}
            )
            self._metrics.prediction(servable.name, "Predict", signature.name, prediction)
            response = predict_pb2.PredictResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = signature.name
            for name in wanted:
                response.outputs[name].CopyFrom(_tensor_proto(prediction.outputs[name]))
            return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        """The signatures of a version."""
        return self.answer(context, lambda: self._metadata(request))

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid_argument(f"Metadata field {name} is not supported")
        with self._repository.acquire(**_spec(request.model_spec)) as servable:
            definitions = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in servable.signature_defs.items():
                definitions.signature_def[name].CopyFrom(definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(definitions)
            return response

    def Classify(self, request: Any, context: Any) -> Any:
        """Run a signature on examples and return each class with its score."""
        return self.answer(
            context, lambda: self._classify(request), count=(request.model_spec.name, "Classify")
        )

    def _classify(self, request: Any) -> Any:
        with self._limit.hold(), self._repository.acquire(**_spec(request.model_spec)) as servable:
            classes = classify(servable, of_proto(request))
            self._metrics.prediction(
                servable.name, "Classify", classes.signature, classes.prediction
            )
            response = classification_pb2.ClassificationResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = classes.signature
            one = classes.labels if classes.labels is not None else classes.scores
            assert one is not None
            for row in range(one.shape[0]):
                found = response.result.classifications.add().classes
                for place in range(one.shape[1]):
                    entry = found.add()
                    if classes.labels is not None:
                        entry.label = classes.labels[row, place].decode("utf-8", "replace")
                    if classes.scores is not None:
                        entry.score = classes.scores[row, place]
            return response

    def Regress(self, request: Any, context: Any) -> Any:
        """Run a signature on examples and return a number for each."""
        return self.answer(
            context, lambda: self._regress(request), count=(request.model_spec.name, "Regress")
        )

    def _regress(self, request: Any) -> Any:
        with self._limit.hold(), self._repository.acquire(**_spec(request.model_spec)) as servable:
            found = regress(servable, of_proto(request))
            self._metrics.prediction(servable.name, "Regress", found.signature, found.prediction)
            response = regression_pb2.RegressionResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.model_spec.signature_name = found.signature
            for value in found.values.tolist():
                response.result.regressions.add().value = value
            return response

    def MultiInference(self, request: Any, context: Any) -> Any:
        """Not implemented."""
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "MultiInference is not implemented by this server; use Predict",
        )


class _ModelService(model_service_pb2_grpc.ModelServiceServicer, _Answering):
    def GetModelStatus(self, request: Any, context: Any) -> Any:
        """The state of each version of a model."""
        return self.answer(context, lambda: self._status(request))

    def _status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = _spec(request.model_spec)
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._repository.status(spec["name"], spec["version"]):
            entry = response.model_version_status.add()
            entry.version = status.version
            entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(status.state)
            entry.status.error_code = CODES.index(status.error_code)
            entry.status.error_message = status.error_message
        return response

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        """Not implemented, because the folder of the models decides what is served."""
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "HandleReloadConfigRequest is not implemented by this server, which follows its "
            "folder and the models.config in it",
        )


def _spec(model_spec: Any) -> dict[str, Any]:
    choice = model_spec.WhichOneof("version_choice")
    return {
        "name": model_spec.name,
        "version": model_spec.version.value if choice == "version" else None,
        "label": model_spec.version_label if choice == "version_label" else None,
    }


def _array(name: str, proto: Any) -> np.ndarray:
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError) as error:
        raise ServingError("INVALID_ARGUMENT", f"tensor parsing error: {name}: {error}") from None


def _tensor_proto(array: np.ndarray) -> Any:
    field = _FIELDS.get(array.dtype)
    if field is None:
        return tf.make_tensor_proto(array)
    kind = tf.string if array.dtype == np.object_ else tf.as_dtype(array.dtype)
    proto = tf.make_tensor_proto([], dtype=kind, shape=[0])
    proto.ClearField("tensor_shape")
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    getattr(proto, field).extend(array.ravel().tolist())
    return proto
