"""TensorFlow Serving's Classify, over REST and gRPC."""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.serving.toy_models import call, start, toy_base
from tfllm.serving.client.client import Client
from tfllm.serving.protocol.errors import ServingError
from tfllm.serving.server.classify import Classes, read_classify, write_classify
from tfllm.serving.server.servable import Prediction, Servable, Signature
from tfllm.serving.server.warmup_replay import warm_up


@pytest.fixture(scope="module")
def server():
    with start(toy_base(), grpc_port=0) as running:
        yield running


def classify(server, body):
    return call(server, "POST", "/v1/models/lengths:classify", body)


def test_each_example_gets_its_classes_with_scores(server):
    examples = [{"text": "four"}, {"text": ["ab"], "times": 3}, {}]
    status, reply = classify(server, {"examples": examples})
    assert status == 200
    assert reply == {
        "results": [
            [["long", 4.0], ["naïve", 0.25]],
            [["long", 6.0], ["naïve", 0.25]],
            [["long", 0.0], ["naïve", 0.25]],
        ]
    }
    b64 = base64.b64encode(b"\xff\xfe\xfd").decode()
    body = {"context": {"text": "xx", "times": 2}, "examples": [{}, {"text": {"b64": b64}}]}
    assert [row[0][1] for row in classify(server, body)[1]["results"]] == [4.0, 6.0]


def test_a_signature_may_have_scores_alone(server):
    body = {"signature_name": "scores_alone", "examples": [{}, {"text": "a"}]}
    (empty,), (one,) = classify(server, body)[1]["results"]
    assert empty == ["", 0.0]
    assert one[1] == len(
        tf.train.Example(
            features=tf.train.Features(
                feature={"text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"]))}
            )
        ).SerializeToString()
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": {"text": "a"}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": ["a"]}, "Example must be JSON object but got JSON String"),
        ({"examples": [{"text": None}]}, "element with unexpected JSON type: Null"),
        ({"examples": [{"text": ["a", 1]}]}, "Unexpected element type in feature: text"),
        ({"examples": [{"times": 2**63}]}, "Only int64 is supported"),
        ({"examples": [{"text": 3}]}, "text"),
        ({"signature_name": "no", "examples": [{}]}, "No signature was found with the name: no"),
        ({"signature_name": "other", "examples": [{}]}, "No classification inputs found"),
        ({"signature_name": 3, "examples": [{}]}, "must be a string value"),
    ],
)
def test_what_is_wrong_is_said(server, body, words):
    status, reply = classify(server, body)
    assert status == 400
    assert words in reply["error"]


def test_the_client_gives_the_same_over_both_protocols(server):
    examples = [{"text": "four"}, {"text": "naïve \udc80"}]
    found = []
    for protocol, address in (("rest", server.rest_address), ("grpc", server.grpc_address)):
        with Client(address, model="lengths", protocol=protocol) as client:
            found.append(client.classify(examples[:1], signature_name="serving_default"))
            with pytest.raises(ServingError, match="No signature was found with the name: no"):
                client.classify(examples, signature_name="no")
    assert found[0] == found[1] == [[("long", 4.0), ("naïve", 0.25)]]


def test_bytes_that_are_no_text_are_repaired():
    labels = np.array([[b"caf\xe9", b'"']], object)
    scores = np.array([[np.nan, 0.1]], np.float32)
    reply = write_classify(Classes(labels, scores, "x", Prediction({})))
    assert reply.decode() == '{"results": [[["caf\ufffd", NaN], ["\\"", 0.1]]]}'
    request = read_classify(json.dumps({"examples": [{"x": [1.5, 2.0]}]}).encode())
    (example,) = request.examples
    found = tf.train.Example.FromString(example).features.feature["x"]
    assert list(found.float_list.value) == [1.5, 2.0]


def write_examples(folder, *, method, examples, signature="", context=None):
    """A warm-up record of a call with tf.train.Example messages."""
    entry = prediction_log_pb2.PredictionLog()
    request = getattr(entry, f"{method}_log").request
    request.model_spec.name = "lengths"
    request.model_spec.signature_name = signature
    given = request.input.example_list
    if context is not None:
        given = request.input.example_list_with_context
        given.context.CopyFrom(example(context))
    for text in examples:
        given.examples.add().CopyFrom(example(text))
    (folder / "assets.extra").mkdir(exist_ok=True)
    path = str(folder / "assets.extra" / "tf_serving_warmup_requests")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(entry.SerializeToString())


def example(text):
    if text is None:
        return tf.train.Example()
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
    return tf.train.Example(features=tf.train.Features(feature={"text": value}))


def test_warm_up_requests_of_classify_and_regress_run_too(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(toy_base() / "lengths" / "1", tmp_path / "1"))
    servable = Servable("lengths", 1, folder)
    ran, predict = [], Signature.predict

    def remembered(signature, inputs):
        ran.append((signature.name, inputs))
        return predict(signature, inputs)

    monkeypatch.setattr(Signature, "predict", remembered)
    for method, signature in (("classify", ""), ("regress", "regress")):
        write_examples(folder, method=method, signature=signature, examples=["ab", "c"])
        assert warm_up(servable, folder) == 1
        name, inputs = ran.pop()
        assert name == (signature or "serving_default")
        assert [tf.train.Example.FromString(text) for text in inputs["inputs"]] == [
            example("ab"),
            example("c"),
        ]
    write_examples(folder, method="classify", context="xyz", examples=[None, "c"])
    warm_up(servable, folder)
    texts = [tf.train.Example.FromString(text) for text in ran.pop()[1]["inputs"]]
    assert texts == [example("xyz"), example("c")]
    write_examples(folder, method="classify", signature="other", examples=["a"])
    with pytest.raises(ServingError, match="warm-up request failed: No classification inputs"):
        warm_up(servable, folder)
    write_examples(folder, method="regress", signature="regress", examples=[])
    with pytest.raises(ServingError, match=r"warm-up request failed: Input is empty\."):
        warm_up(servable, folder)
