"""A harness gets the same results from a served model, over REST and gRPC, as in Python."""

import pytest

from tests.rounding import about, additions_of
from tests.tasks.chat_models import chat
from tfllm.evaluation.harness import exact_match, multiple_choice
from tfllm.serving import Client, ModelServer, export

CHOICES = [
    {"context": "the cat sat", "choices": ["on the mat", "on a hat, naïvely"], "answer": "0"},
    {"context": "a dog", "choices": ["runs", "sleeps", "sits there"], "answer": "C"},
    {"context": "été", "choices": [" 你好", "hot"], "answer": "1"},
]
QUESTIONS = [
    {"question": "What is 2 + 3?", "answer": "2 + 3 = 5 #### 5"},
    {"question": "And 2 + 4?", "answer": "6"},
    {"question": "Is 7 odd?", "answer": "7"},
]


@pytest.fixture(scope="module")
def local():
    return chat("llama2")


@pytest.fixture(scope="module")
def server(local, tmp_path_factory):
    base = tmp_path_factory.mktemp("served")
    export(local, base / "tiny")
    with ModelServer(base, rest_port=0, grpc_port=0) as running:
        yield running


@pytest.fixture(params=["rest", "grpc"])
def client(server, request):
    address = server.rest_address if request.param == "rest" else server.grpc_address
    with Client(
        address, model="tiny", protocol=request.param, timeout=60, template=chat("llama2").template
    ) as connected:
        yield connected


def test_choices_are_scored_alike(local, client):
    own, served = (multiple_choice(model, CHOICES, batch_size=3) for model in (local, client))
    assert [metric.value for metric in served.metrics] == [m.value for m in own.metrics]
    additions = additions_of(local.model.config, 64) + local.tokenizer.vocab_size
    for ours, theirs in zip(own.predictions, served.predictions, strict=True):
        assert theirs["chosen"] == ours["chosen"]
        assert theirs["log_probs"] == about(ours["log_probs"], additions)


@pytest.mark.parametrize("asked_as_chat", [False, True])
def test_answers_are_generated_alike(local, client, asked_as_chat):
    settings = {"num_shots": 1, "max_new_tokens": 5, "batch_size": 2, "chat": asked_as_chat}
    own, served = (exact_match(model, QUESTIONS, **settings) for model in (local, client))
    assert served.predictions == own.predictions
    assert [metric.value for metric in served.metrics] == [m.value for m in own.metrics]
