"""The client over both protocols, and with a server that has none of tfllm's additions."""

import http.server
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from tests.serving.toy_models import start, toy_base
from tfllm.serving.client.client import Client
from tfllm.serving.protocol.errors import GenerationError, ServingError


@pytest.fixture(scope="module")
def server():
    labels = {"half": {"stable": 1}}
    with start(toy_base(), grpc_port=0, labels=labels, max_body_bytes=1 << 20) as running:
        yield running


@pytest.fixture(params=["rest", "grpc"])
def connect(server, request):
    clients = []

    def make(model, **settings):
        address = server.rest_address if request.param == "rest" else server.grpc_address
        clients.append(Client(address, model=model, protocol=request.param, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_predict_gives_arrays_of_the_signatures_types(connect):
    y = connect("half").predict([1.0, 2.0])["y"]
    assert y.dtype == np.float32 and y.tolist() == [2.5, 3.0]
    outputs = connect("several").predict(
        {"tag": ["é", b"\xff"], "pair": np.int32([[1, 2], [3, 4]])}
    )
    assert outputs["echo"].tolist() == ["é", "\ufffd"]
    assert outputs["raw_bytes"].tolist() == ["é".encode(), b"\xff"]
    assert outputs["wide"].dtype == np.int64 and outputs["wide"].shape == (2, 2)
    assert outputs["even"].dtype == np.bool_
    z = connect("several").predict(1.5, signature_name="scalar")["z"]
    assert z.shape == () and z == 2.5
    f = connect("several").predict([np.nan, np.inf], signature_name="numbers")["f"]
    np.testing.assert_array_equal(f, np.float32([np.nan, np.inf]))


def test_version_and_label(connect):
    assert connect("half", version=1).predict([0.0])["y"] == [1.0]
    assert connect("half", label="stable").predict([0.0])["y"] == [1.0]
    assert connect("half").predict([0.0])["y"] == [2.0]


def test_generate(connect):
    client = connect("parrot")
    assert client.generate("hello") == "hello"
    assert client.generate(["ab", "cdé"]) == ["ab", "cdé"]
    assert client.generate("hello", max_new_tokens=2) == "he"
    assert client.generate(["hello", "world"], stop=["l", "w"]) == ["he", ""]
    assert client.generate("a b", stop=" ", temperature=0.5, seed=3) == "a"


def test_an_option_that_the_model_was_exported_without_must_have_no_effect(connect):
    """As a model exported by an earlier version, `parrot` has no input prompt_lookup_tokens."""
    client = connect("parrot")
    assert client.generate("hello", max_new_tokens=2, prompt_lookup_tokens=0) == "he"
    with pytest.raises(ValueError, match=r"prompt_lookup_tokens must be 0 .* received 4. Export"):
        client.generate("hello", prompt_lookup_tokens=4)


def test_a_prompt_that_the_model_refuses_is_an_error_that_keeps_the_other_texts(connect):
    with pytest.raises(GenerationError, match="the prompt is empty"):
        connect("parrot").generate("")
    with pytest.raises(ValueError, match="row 1: the prompt is empty") as error:
        connect("parrot").generate(["good", "", "too"])
    assert error.value.outputs["text"].tolist() == ["good", "", "too"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 3}, "did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": float("nan")}, "finite"),
        ({"stop": ["a\x1fb"]}, "U\\+001F"),
    ],
)
def test_wrong_options_are_refused_before_they_are_sent(connect, options, words):
    with pytest.raises(ValueError, match=words):
        connect("parrot").generate("a", **options)
    with pytest.raises(ValueError, match="must be a string"):
        connect("parrot").generate(["a", 3])


def test_json_outputs_are_read(connect, monkeypatch):
    """The lists of a model that is exported now; `parrot` below has an earlier version's arrays."""
    client = connect("parrot")
    outputs = {
        "num_tokens": np.int32([2, 0]),
        "log_prob": np.float32([-3.5, 0.0]),
        "token_ids_json": np.array(["[7, 8]", "[]"], object),
        "token_log_probs_json": np.array(["[-1.5, -2]", "[]"], object),
        "note_json": np.array(["no json", "[]"], object),
        "error": np.array(["", ""], object),
    }
    monkeypatch.setattr(client, "predict", lambda inputs, signature_name: outputs)
    monkeypatch.setattr(client, "input_names", lambda signature: ["text"])
    scores = client.score(["a b", ""])
    assert scores[0] == {
        "num_tokens": 2, "log_prob": -3.5, "token_ids": [7, 8], "token_log_probs": [-1.5, -2.0]
    }  # fmt: skip
    assert scores[1]["token_ids"] == scores[1]["token_log_probs"] == []
    first, second = client.rows("score", [{"text": "a b"}, {"text": ""}])
    assert first["token_ids"] == [7, 8] and first["note_json"] == "no json"
    assert second["token_log_probs"] == second["note"] == []


def test_score(connect):
    client = connect("parrot")
    score = client.score("abc")
    assert score["num_tokens"] == 3 and score["log_prob"] == -3.0
    assert score["token_ids"] == [97, 98, 99] and score["token_log_probs"] == [0.0] * 3
    assert [s["token_ids"] for s in client.score(["a", "bcd"])] == [[97], [98, 99, 100]]


def test_status_and_metadata(connect):
    assert connect("several").status() == [
        {"version": 7, "state": "AVAILABLE", "error_code": "OK", "error_message": ""}
    ]
    metadata = connect("several").metadata()
    assert metadata["model_spec"]["version"] == "7"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["scalar"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_both_protocols_give_the_same_metadata(server):
    with (
        Client(server.rest_address, model="parrot") as rest,
        Client(server.grpc_address, model="parrot", protocol="grpc") as grpc,
    ):
        assert rest.metadata()["metadata"] == grpc.metadata()["metadata"]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.generate([]),
        lambda client: client.generate([], max_new_tokens=3),
        lambda client: client.chat([]),
        lambda client: client.score([]),
        lambda client: client.classify([]),
        lambda client: client.rows("serving_default", []),
        lambda client: client.predict([]),
        lambda client: client.predict(()),
        lambda client: client.predict({}),
        lambda client: client.predict({"x": []}),
        lambda client: client.predict({"x": [1.0], "y": []}),
        lambda client: client.predict({"x": np.zeros([0, 4], np.float32)}),
    ],
)
def test_an_empty_request_is_refused_before_it_is_sent(protocol, ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        listener.setblocking(False)
        with (
            Client(f"{host}:{port}", model="any", protocol=protocol, timeout=5) as client,
            pytest.raises(ValueError, match=r"at least one"),
        ):
            ask(client)
        with pytest.raises(BlockingIOError):  # nobody called
            listener.accept()


def test_the_servers_errors_are_exceptions_with_its_code_and_words(connect):
    for make, code, words in (
        (lambda: connect("nope").status(), "NOT_FOUND", "any versions of model nope"),
        (lambda: connect("nope").predict([1.0]), "NOT_FOUND", "Latest(nope)"),
        (lambda: connect("half", version=8).predict([1.0]), "NOT_FOUND", "Specific(half, 8)"),
        (lambda: connect("half", label="x").predict([1.0]), "INVALID_ARGUMENT", "label: x"),
        (lambda: connect("picky").predict([-1.0]), "INVALID_ARGUMENT", "must not be negative"),
        (lambda: connect("half").predict(["text"]), "INVALID_ARGUMENT", "float"),
        (
            lambda: connect("half").predict([1.0], signature_name="serving_defualt"),
            "INVALID_ARGUMENT",
            "did you mean 'serving_default'?",
        ),
    ):
        with pytest.raises(ServingError) as error:
            make()
        assert error.value.code == code and words in error.value.message


def test_settings_are_checked(connect):
    for settings, words in (
        ({"model": ""}, "model must be"),
        ({"model": "m", "version": 1, "label": "a"}, "not both"),
        ({"model": "m", "protocol": "http"}, "'rest' or 'grpc'"),
        ({"model": "m", "timeout": 0}, "timeout must be positive"),
        ({"model": "m", "address": "ftp://x"}, "host:port or a URL"),
        ({"model": "m", "address": "x:port"}, "host:port or a URL"),
    ):
        with pytest.raises(ValueError, match=words):
            Client(**settings)
    with pytest.raises(ValueError, match="must be a dictionary"):
        connect("several").predict([1])


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_no_server_is_told_with_what_to_do(protocol):
    with (
        Client("127.0.0.1:1", model="m", protocol=protocol) as client,
        pytest.raises(ServingError, match="tfllm serve") as error,
    ):
        client.status()
    assert error.value.code == "UNAVAILABLE"


def test_a_body_over_the_limit_is_told_by_the_server(server):
    with (
        Client(server.rest_address, model="half") as client,
        pytest.raises(ServingError, match="takes at most 1048576") as error,
    ):
        client.predict([0.5] * 1_000_000)
    assert error.value.http_status == 413


def test_a_stream_gives_the_pieces_and_then_the_summary(server):
    with Client(server.rest_address, model="parrot") as client:
        stream = client.stream("hello world", max_new_tokens=11, stop=["wor"])
        pieces = []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as end:
                assert end.value["finish_reason"] == "stop"
                break
        assert "".join(pieces) == "hello " and len(pieces) > 3
        with pytest.raises(ServingError, match="prompt is empty"):
            list(client.stream(""))
        with pytest.raises(ValueError, match="did you mean"):
            client.stream("a", max_token=1)
        next(early := client.stream("x" * 50))
        early.close()
    with (
        Client(server.grpc_address, model="parrot", protocol="grpc") as client,
        pytest.raises(ValueError, match="requires REST"),
    ):
        client.stream("a")


def test_threads_share_a_client(connect):
    client = connect("half")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: client.predict([float(x)])["y"][0], range(40)))
    assert results == [x / 2 + 2 for x in range(40)]


def test_threads_that_come_and_go_leave_no_connections_open(server):
    with Client(server.rest_address, model="half") as client:
        for x in range(5):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(client.predict, [float(x)]).result()["y"] == [x / 2 + 2]
        [connection] = client._transport._idle
        socket = connection.sock
    assert socket.fileno() == -1 and not client._transport._idle


class Recorded(http.server.BaseHTTPRequestHandler):
    """TensorFlow Serving as recorded from its documentation: indented, and with no additions."""

    protocol_version = "HTTP/1.1"
    signature: ClassVar = {
        "inputs": {"prompt": {"dtype": "DT_STRING", "name": "a:0"}},
        "outputs": {"text": {"dtype": "DT_STRING", "name": "b:0"}},
        "method_name": "tensorflow/serving/predict",
    }

    def do_GET(self):
        signatures = {"serving_default": self.signature}
        self.reply(
            200,
            '{\n"model_spec":{\n "name": "m",\n "signature_name": "",\n "version": "1"\n}\n,\n'
            f'"metadata": {{"signature_def": {{"signature_def": {json.dumps(signatures)}}}}}\n}}\n',
        )

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["inputs"]["prompt"] == ["refuse"]:
            self.reply(400, '{\n    "error": "no"\n}')
        else:
            # One output goes without its name; a control character goes as it is.
            self.reply(200, '{\n    "outputs": [\n        "so\tit goes"\n    ]\n}')
        if body["inputs"]["prompt"] == ["close"]:
            self.close_connection = True

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def test_a_server_without_our_outputs_is_enough():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as recorded:
        thread = threading.Thread(target=recorded.serve_forever, args=(0.05,))
        thread.start()
        try:
            address = f"http://127.0.0.1:{recorded.server_port}"
            with Client(address, model="m") as client:
                assert client.generate("how") == "so\tit goes"
                assert client.generate("close") == "so\tit goes"
                assert client.generate("again, on a new connection") == "so\tit goes"
                with pytest.raises(ServingError, match="INVALID_ARGUMENT: no"):
                    client.generate("refuse")
                with pytest.raises(ServingError):
                    list(client.stream("refuse"))
        finally:
            recorded.shutdown()
            thread.join()
