"""REST as in TensorFlow Serving: raw requests, with texts from its documentation and sources."""

import http.client
import json
import re
import resource
import socket
import time

import pytest

from tests.serving.toy_models import call, raw_call, start, toy_base, until

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server():
    with start(toy_base(), max_body_bytes=1 << 20, request_timeout_seconds=2.0) as running:
        yield running


def predict(server, model, body):
    return call(server, "POST", f"/v1/models/{model}:predict", body)


def error(reply, status=400):
    assert reply[0] == status, reply
    assert list(reply[1]) == ["error"]
    return reply[1]["error"]


def test_the_documented_example(server):
    status, text, headers = raw_call(
        server, "POST", "/v1/models/half:predict", {"instances": [1.0, 2.0, 5.0]}
    )
    assert (status, headers["content-type"]) == (200, "application/json")
    assert text == '{"predictions": [2.5, 3.0, 4.5]}'
    assert predict(server, "half", {"inputs": [1.0, 2.0]}) == (200, {"outputs": [2.5, 3.0]})


def test_paths_ignore_case_and_decode_names(server):
    assert call(server, "POST", "/V1/Models/half:predict", {"instances": [0]})[0] == 200
    assert call(server, "POST", "/v1/models/%68alf:predict", {"instances": [0]})[0] == 200


def test_status_and_metadata(server):
    assert call(server, "GET", "/v1/models/several") == (
        200,
        {
            "model_version_status": [
                {
                    "version": "7",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        },
    )
    assert call(server, "GET", "/v1/models/half/versions/2")[0] == 200
    status, metadata = call(server, "GET", "/v1/models/several/versions/7/metadata")
    assert status == 200
    assert metadata["model_spec"] == {"name": "several", "signature_name": "", "version": "7"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    pair = signatures["serving_default"]["inputs"]["pair"]
    assert pair["dtype"] == "DT_INT32"
    assert pair["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"


def test_several_inputs_and_outputs_of_all_types(server):
    rows = [{"tag": "é", "pair": [1, 2]}, {"tag": {"b64": "/w=="}, "pair": [3, 5]}]
    expected = [
        {"echo": "é", "raw_bytes": {"b64": "w6k="}, "total": 3, "wide": [1, 2],
         "real": 0.375, "even": False},
        {"echo": "\ufffd", "raw_bytes": {"b64": "/w=="}, "total": 8, "wide": [3, 5],
         "real": 1.0, "even": True},
    ]  # fmt: skip
    assert predict(server, "several", {"instances": rows}) == (200, {"predictions": expected})
    columns = {name: [row[name] for row in rows] for name in ("tag", "pair")}
    status, reply = predict(server, "several", {"inputs": columns})
    assert status == 200
    assert reply["outputs"] == {name: [row[name] for row in expected] for name in expected[0]}


def test_other_signatures_and_scalars(server):
    body = {"signature_name": "scalar", "inputs": 1.5}
    assert predict(server, "several", body) == (200, {"outputs": 2.5})
    assert "must have shape []" in error(
        predict(server, "several", {"signature_name": "scalar", "instances": [1.5]})
    )


def test_numbers_that_are_not_finite_pass_through(server):
    body = '{"signature_name": "numbers", "inputs": [NaN, Infinity, -Infinity, 0.1]}'
    _, text, _ = raw_call(server, "POST", "/v1/models/several:predict", body)
    assert text == (
        '{"outputs": {"d": [NaN, Infinity, -Infinity, 0.10000000149011612], '
        '"f": [NaN, Infinity, -Infinity, 0.1]}}'
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/models/foo:predict", 404, "Servable not found for request: Latest(foo)"),
        ("POST", "/v1/models/half/versions/50:predict", 404, "request: Specific(half, 50)"),
        ("POST", "/v1/models/half/labels/no:predict", 400, "servable version label: no"),
        ("POST", "/v1/models/half:classify", 400, "is expected and was not found"),
        ("POST", "/v1/models/half:regress", 400, "is expected and was not found"),
        ("POST", "/v1/models/half:PREDICT", 400, "Malformed request: POST /v1/models/half:PREDICT"),
        ("GET", "/v1/models/foo", 404, "Could not find any versions of model foo"),
        ("GET", "/v1/models/half/versions/9", 404, "Could not find version 9 of model half"),
        ("GET", "/v1/models/foo/metadata", 404, "Servable not found for request: Latest(foo)"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("POST", "/v1/models", 400, "Malformed request: POST /v1/models"),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("POST", "/v1/models/half/versions/x:predict", 400, "Malformed request"),
        ("POST", "/v1/models/half/version/1:predict", 400, "Malformed request"),
        ("POST", "/v1/models/half/versions/1/labels/a:predict", 400, "Malformed request"),
        ("POST", "/v1/models/half/metadata", 400, "Malformed request"),
        ("PUT", "/v1/models/half", 400, "Malformed request: PUT /v1/models/half"),
        ("POST", f"/v1/models/half/versions/{2**64}:predict", 400, "Failed to convert version"),
        ("GET", "/v1/models/..%2f..%2fetc", 404, "Could not find any versions"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_as_in_serving(server, method, path, status, words):
    body = {"instances": [1]} if method == "POST" else None
    assert words in error(call(server, method, path, body), status)


@pytest.mark.parametrize("path", ["/", "/../etc/passwd", "/v2/models/half", "/v1"])
def test_a_path_that_is_no_models_gets_a_page_and_404(server, path):
    status, text, headers = raw_call(server, "GET", path)
    assert (status, headers["content-type"]) == (404, "text/html")
    assert "Not Found" in text and "/v1/models/NAME" in text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{'instances': [1]}", "JSON Parse error: Invalid value"),
        ({"instances": ["x"]}, "is not of expected type: float"),
        ({"instances": [[1.0], [1.0, 2.0]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": [[1.0]]}, "input x must have shape [?]; received [1,1]"),
        ({"instances": [{"y": 1.0}]}, "does not have named input: y"),
        ({"inputs": {"y": [1.0]}}, "Missing named input: x"),
        (
            {"signature_name": "nope", "instances": [1.0]},
            'Serving signature name: "nope" not found in signature def',
        ),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(server, body, words):
    assert words in error(predict(server, "half", body))


def test_the_models_own_error_reaches_the_client_without_a_stack(server):
    message = error(predict(server, "picky", {"instances": [-1.0]}))
    assert message.startswith("assertion failed: [x must not be negative")
    assert "File" not in message and "node" not in message and "stack" not in message


def test_xla_is_off_as_in_serving(server):
    message = error(predict(server, "compiled", {"instances": [1.0]}), 500)
    assert "XLA compilation disabled" in message


def test_a_body_over_the_limit_is_refused_without_being_kept(server):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection = http.client.HTTPConnection(server.rest_address, timeout=60)
    piece = b" " * (1 << 20)
    connection.request(
        "POST",
        "/v1/models/half:predict",
        (piece for _ in range(100)),
        {"Content-Length": str(100 << 20)},
    )
    response = connection.getresponse()
    reply = json.loads(response.read())
    connection.close()
    assert response.status == 413
    assert "104857600 bytes; this server takes at most 1048576" in reply["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10  # KiB
    assert predict(server, "half", {"instances": [1]})[0] == 200


def test_a_chunked_body_over_the_limit_is_refused(server):
    connection = http.client.HTTPConnection(server.rest_address, timeout=60)
    connection.request("POST", "/v1/models/half:predict", (b" " * 65536 for _ in range(32)))
    response = connection.getresponse()
    assert (response.status, "2097152 bytes" in response.read().decode()) == (413, True)
    connection.close()


def test_a_client_that_goes_in_the_middle_of_a_body_harms_nobody(server):
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nHost: x\r\n"
                       b"Content-Length: 100\r\n\r\n{")  # fmt: skip
    assert predict(server, "half", {"instances": [1]})[0] == 200


def test_a_request_that_takes_too_long_gets_504(server):
    begin = time.monotonic()
    message = error(predict(server, "slow", {"instances": [3.0]}), 504)
    assert "2 s" in message and time.monotonic() - begin < 2.9


def test_one_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection(server.rest_address, timeout=60)
    for number in range(20):
        connection.request("POST", "/v1/models/half:predict", json.dumps({"inputs": [number]}))
        sock = connection.sock
        assert json.loads(connection.getresponse().read()) == {"outputs": [number / 2 + 2]}
        assert connection.sock is sock
    connection.close()


def metric(server, name, **labels):
    """A number of the metrics page, 0 where it is not there."""
    _, page, _ = raw_call(server, "GET", "/monitoring/prometheus/metrics")
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    found = [line for line in page.splitlines() if line.startswith(f"{name}{{{inside}}} ")]
    assert len(found) <= 1
    return float(found[0].split()[-1]) if found else 0.0


@pytest.mark.parametrize(
    ("request_line", "body", "model", "status", "api"),
    [
        ("POST /v1/models/half:predict", {"instances": [1.0]}, "half", "OK", "predict"),
        ("POST /v1/models/lengths:classify", {"examples": [{}]}, "lengths", "OK", "classify"),
        (
            "POST /v1/models/lengths:regress",
            {"signature_name": "regress", "examples": [{}]},
            "lengths",
            "OK",
            "regress",
        ),
        ("GET /v1/models/half", None, "half", "OK", ""),
        ("GET /v1/models/half/metadata", None, "half", "OK", ""),
        ("POST /v1/models/half:predict", "{", "half", "INVALID_ARGUMENT", None),
        ("POST /v1/models/half:PREDICT", "{}", "half", "INVALID_ARGUMENT", None),
        ("POST /v1/models/half/versions/9:predict", "{}", "half", "NOT_FOUND", None),
        ("POST /v1/models/nosuch:predict", "{}", "", "NOT_FOUND", None),
        ("POST /v1/models/nosuch:predict", "{", "", "INVALID_ARGUMENT", None),
        ("PUT /v1/models/half", None, "", "INVALID_ARGUMENT", None),
        ("OPTIONS /v1/models/half", None, "", "FAILED_PRECONDITION", None),
        ("GET /healthz", None, None, None, None),
    ],
)
def test_requests_are_counted_under_the_names_of_the_real_server(
    server, request_line, body, model, status, api
):
    def counts():
        counted = metric(
            server, ":tensorflow:serving:request_count", model_name=model, status=status
        )
        timed = metric(
            server,
            ":tensorflow:serving:request_latency_count",
            model_name=model,
            API=api,
            entrypoint="REST",
        )
        return counted, timed

    def all_counts():
        _, page, _ = raw_call(server, "GET", "/monitoring/prometheus/metrics")
        return [line for line in page.splitlines() if ":tensorflow:serving:request_count{" in line]

    counted, timed = counts()
    before = all_counts()
    call(server, *request_line.split(), body)
    until(lambda: counts()[0] == counted + (model is not None))
    assert counts() == (counted + (model is not None), timed + (api is not None))
    assert (all_counts() == before) == (model is None)


def test_the_time_of_a_run_is_kept_with_the_bounds_of_the_real_server(server):
    labels = {"model_name": "lengths", "API": "Regress", "runtime": "TF1"}
    name = ":tensorflow:serving:runtime_latency"
    before = metric(server, f"{name}_count", **labels)
    body = {"signature_name": "regress", "examples": [{}]}
    assert call(server, "POST", "/v1/models/lengths:regress", body)[0] == 200
    assert metric(server, f"{name}_count", **labels) == before + 1
    _, page, _ = raw_call(server, "GET", "/monitoring/prometheus/metrics")
    bounds = re.findall(rf'{name}_bucket{{model_name="lengths",.*API="Regress",.*le="(.*)"}}', page)
    # Beginning with 10 us, each 1.8 times the one before, 33 of them, and the rest.
    assert bounds[:4] == ["10", "18", "32.4", "58.32"] and bounds[-1] == "+Inf"
    assert len(bounds) == 34


def test_the_metrics_page_counts_batches(server):
    predict(server, "half", {"instances": [1.0, 2.0, 3.0]})
    predict(server, "unknown", {"instances": [1.0]})
    status, page, headers = raw_call(server, "GET", "/monitoring/prometheus/metrics")
    assert status == 200 and headers["content-type"] == "text/plain"
    assert 'tfllm_batch_size_bucket{model_name="half",signature="serving_default",le="3"}' in page
    assert "unknown" not in page


def test_a_model_without_a_stream_says_so(server):
    message = error(call(server, "POST", "/v1/models/half:stream", {"prompt": "x"}))
    assert "has no live stream" in message
