"""gRPC through the stubs that TensorFlow Serving's own clients use."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.toy_models import start, toy_base, until

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def channel():
    labels = {"half": {"stable": 1}}
    with (
        start(toy_base(), rest_port=None, grpc_port=0, labels=labels) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(model, inputs, signature="", version=None, label=None, outputs=()):
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    message.output_filter.extend(outputs)
    for name, value in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return message


def refused(call, message):
    with pytest.raises(grpc.RpcError) as error:
        call(message, timeout=30)
    return error.value.code().name, error.value.details()


FLOATS = np.float32([1, 2])


def test_predict_names_the_version_that_answered(predictions):
    reply = predictions.Predict(request("half", {"x": FLOATS}))
    assert tf.make_ndarray(reply.outputs["y"]).tolist() == [2.5, 3.0]
    assert list(reply.outputs["y"].float_val) == [2.5, 3.0]
    assert reply.model_spec.name == "half" and reply.model_spec.version.value == 2
    assert reply.model_spec.signature_name == "serving_default"


def test_version_and_label(predictions):
    for spec in ({"version": 1}, {"label": "stable"}):
        reply = predictions.Predict(request("half", {"x": FLOATS}, **spec))
        assert tf.make_ndarray(reply.outputs["y"]).tolist() == [1.5, 2.0]
        assert reply.model_spec.version.value == 1


def test_every_type_and_the_output_filter(predictions):
    inputs = {"tag": [b"\xff", "é".encode()], "pair": np.int32([[1, 2], [3, 4]])}
    reply = predictions.Predict(request("several", inputs))
    got = {name: tf.make_ndarray(proto) for name, proto in reply.outputs.items()}
    assert got["echo"].tolist() == got["raw_bytes"].tolist() == [b"\xff", "é".encode()]
    assert got["total"].dtype == np.int32 and got["total"].tolist() == [3, 7]
    assert got["wide"].dtype == np.int64 and got["wide"].tolist() == [[1, 2], [3, 4]]
    assert got["real"].dtype == np.float64 and got["even"].tolist() == [False, False]
    reply = predictions.Predict(request("several", inputs, outputs=["total", "even"]))
    assert sorted(reply.outputs) == ["even", "total"]
    for outputs, words in ((["no"], "alias not found"), (["even", "even"], "duplicate")):
        code, details = refused(predictions.Predict, request("several", inputs, outputs=outputs))
        assert code == "INVALID_ARGUMENT" and words in details


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (request("nope", {"x": FLOATS}), "NOT_FOUND", "Latest(nope)"),
        (request("", {"x": FLOATS}), "INVALID_ARGUMENT", "no name"),
        (request("half", {"x": FLOATS}, version=9), "NOT_FOUND", "Specific(half, 9)"),
        (request("half", {"x": FLOATS}, label="no"), "INVALID_ARGUMENT", "label: no"),
        (request("half", {"x": FLOATS}, "no"), "FAILED_PRECONDITION", 'key "no" not found'),
        (request("half", {}), "INVALID_ARGUMENT", "Missing but required: {x}"),
        (request("half", {"x": FLOATS, "z": FLOATS}), "INVALID_ARGUMENT", "Sent extra: {z}"),
        (request("half", {"x": np.float64([1])}), "INVALID_ARGUMENT", "type float"),
        (request("half", {"x": ["a"]}), "INVALID_ARGUMENT", "received string"),
        (request("half", {"x": np.float32(1)}), "INVALID_ARGUMENT", "shape [?]; received []"),
        (request("picky", {"x": np.float32([-1])}), "INVALID_ARGUMENT", "not be negative"),
        (
            request("several", {"tag": ["a"], "pair": np.int32([[1, 2], [3, 4]])}),
            "INVALID_ARGUMENT",
            "equal 0th-dimension size",
        ),
    ],
)
def test_errors_have_servings_codes(predictions, message, code, words):
    got, details = refused(predictions.Predict, message)
    assert got == code and words in details


def test_an_empty_batch_is_answered(predictions):
    reply = predictions.Predict(request("half", {"x": np.zeros(0, np.float32)}))
    assert tf.make_ndarray(reply.outputs["y"]).shape == (0,)


def test_calls_beyond_the_limit_are_refused_and_do_not_pile_up():
    settings = {"rest_port": None, "grpc_port": 0, "max_batch_size": 1, "max_enqueued_batches": 1}
    with (
        start(toy_base(), **settings) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        slow = request("slow", {"seconds": np.float32([1.0])})
        running = [stub.Predict.future(slow, timeout=60) for _ in range(2)]
        until(lambda: server._limit.count == 2)
        assert refused(stub.Predict, request("half", {"x": FLOATS}))[0] == "RESOURCE_EXHAUSTED"
        assert [call.result().model_spec.name for call in running] == ["slow"] * 2


def test_large_messages_pass(predictions):
    # 12 MB; gRPC's own limit is 4. Their sum is less than 2^24, and exact in any order.
    x = (np.arange(3_000_000) % 5).astype(np.float32).reshape(1, -1)
    reply = predictions.Predict(request("several", {"x": x}, "ragged_width"))
    assert tf.make_ndarray(reply.outputs["sum"]).tolist() == [2 * 3_000_000]


def test_metadata(predictions):
    message = get_model_metadata_pb2.GetModelMetadataRequest()
    message.model_spec.name = "several"
    assert refused(predictions.GetModelMetadata, message)[0] == "INVALID_ARGUMENT"
    message.metadata_field.append("signature_def")
    reply = predictions.GetModelMetadata(message)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(definitions)
    assert {"serving_default", "scalar", "numbers"} <= set(definitions.signature_def)
    assert reply.model_spec.version.value == 7


def test_status(channel):
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    message = get_model_status_pb2.GetModelStatusRequest()
    assert refused(models.GetModelStatus, message)[0] == "INVALID_ARGUMENT"
    message.model_spec.name = "half"
    reply = models.GetModelStatus(message)
    states = get_model_status_pb2.ModelVersionStatus
    assert [(s.version, s.state, s.status.error_code) for s in reply.model_version_status] == [
        (2, states.AVAILABLE, 0),
        (1, states.AVAILABLE, 0),
    ]
    message.model_spec.name = "nope"
    assert refused(models.GetModelStatus, message)[0] == "NOT_FOUND"


def test_classify_wants_a_model_and_examples(predictions):
    message = classification_pb2.ClassificationRequest()
    assert refused(predictions.Classify, message)[0] == "INVALID_ARGUMENT"
    message.model_spec.name = "half"
    assert refused(predictions.Classify, message) == ("INVALID_ARGUMENT", "Input is empty.")


def regression(signature, *texts):
    message = regression_pb2.RegressionRequest()
    message.model_spec.name = "lengths"
    message.model_spec.signature_name = signature
    for text in texts:
        feature = message.input.example_list.examples.add().features.feature
        feature["text"].bytes_list.value.append(text)
    return message


def test_regress(predictions):
    reply = predictions.Regress(regression("regress", b"four", b"ab"))
    assert [entry.value for entry in reply.result.regressions] == [4.0, 2.0]
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("lengths", 1)
    assert reply.model_spec.signature_name == "regress"
    for message, words in (
        (regression("regress"), "Input is empty."),
        (regression("nosuch", b"a"), "No signature was found with the name: nosuch"),
        (regression("", b"a"), "Expected one output Tensor."),
    ):
        code, details = refused(predictions.Regress, message)
        assert code == "INVALID_ARGUMENT" and words in details


def test_a_value_that_does_not_fit_its_type_is_refused(predictions):
    message = request("several", {"byte": np.uint8([1])}, "small")
    proto = message.inputs["tiny"]
    proto.dtype = types_pb2.DT_INT8
    proto.tensor_shape.dim.add().size = 1
    proto.int_val.append(200)
    code, details = refused(predictions.Predict, message)
    assert code == "INVALID_ARGUMENT" and "tensor parsing error: tiny" in details


def test_the_other_calls_are_unimplemented(channel, predictions):
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    for method, message in (
        (predictions.MultiInference, inference_pb2.MultiInferenceRequest()),
        (models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
    ):
        assert refused(method, message)[0] == "UNIMPLEMENTED"
