"""Options set at export are the defaults of requests."""

import grpc
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.generation.toy_text_models import model, tokenizer
from tests.rounding import about
from tests.serving.toy_models import start
from tfllm.config import GenerationConfig
from tfllm.generation.options import option_values
from tfllm.serving import Client, export
from tfllm.tasks import TextGeneration

SETTINGS = GenerationConfig(
    max_new_tokens=7,
    temperature=0.7,
    top_k=9,
    repetition_penalty=1.25,
    seed=4,
    stop=("(", "é"),
    prompt_lookup_tokens=6,
)
PROMPTS = ["the cat", "on the mat"]


@pytest.fixture(scope="module")
def task():
    return TextGeneration(model("llama"), tokenizer(), SETTINGS)


@pytest.fixture(scope="module")
def base(task, tmp_path_factory):
    base = tmp_path_factory.mktemp("exported")
    export(task, base / "toy", warmup_prompts=())
    return base


@pytest.fixture(scope="module")
def server(base):
    with start(base, grpc_port=0) as running:
        yield running


def connect(server, protocol):
    address = server.rest_address if protocol == "rest" else server.grpc_address
    return Client(address, model="toy", protocol=protocol)


def test_the_signature_def_has_the_settings_as_defaults(base):
    content = (base / "toy" / "1" / "saved_model.pb").read_bytes()
    signatures = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def
    defaults = {n: tf.make_ndarray(p) for n, p in signatures["generate"].defaults.items()}
    assert {name: value.shape for name, value in defaults.items()} == dict.fromkeys(defaults, (1,))
    values = {name: value.item() for name, value in defaults.items()}
    assert values.pop("stop").decode() == "(\x1fé"
    expected = option_values(SETTINGS)
    assert set(values) | {"stop"} == set(expected)
    assert values == about({name: expected[name] for name in values}, 1)  # float32


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_one_option_given_leaves_the_others_as_exported(server, task, protocol):
    with connect(server, protocol) as client:
        assert client.generate(PROMPTS) == task.generate(PROMPTS)
        assert client.generate(PROMPTS, seed=11) == task.generate(PROMPTS, seed=11)
        assert client.generate(PROMPTS[0], stop=[]) == task.generate(PROMPTS[0], stop=[])


def test_a_stream_gives_the_text_that_the_same_request_gives_whole(server, task):
    with connect(server, "rest") as client:
        for options in ({}, {"seed": 11}, {"max_new_tokens": 12, "stop": []}):
            text = task.generate(PROMPTS[0], **options)
            assert "".join(client.stream(PROMPTS[0], **options)) == text


def test_grpc_fills_in_what_is_left_out_for_every_row(server, task):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "toy", "generate"
    request.inputs["prompt"].CopyFrom(tf.make_tensor_proto(PROMPTS))
    with grpc.insecure_channel(server.grpc_address) as channel:
        reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    texts = [text.decode() for text in tf.make_ndarray(reply.outputs["text"])]
    assert texts == task.generate(PROMPTS)
