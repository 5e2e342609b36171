"""Concurrent requests are batched, each gets its own rows, and none affects another."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.rounding import about
from tests.serving.toy_models import call, raw_call, start, toy_base, until
from tfllm.serving.client.client import Client
from tfllm.serving.protocol.errors import ServingError
from tfllm.serving.server.batching import BatchingOptions, batched_function

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server():
    with start(toy_base(), max_batch_size=8) as running:
        yield running


def predict(server, model, body):
    return call(server, "POST", f"/v1/models/{model}:predict", body)


def batches(server, model, signature="serving_default"):
    """Batch size to how many there were, from the metrics page."""
    _, page, _ = raw_call(server, "GET", "/monitoring/prometheus/metrics")
    pattern = (
        rf'tfllm_batch_size_bucket{{model_name="{model}",signature="{signature}",le="(\d+)"}} (\S+)'
    )
    counts, before = {}, 0.0
    for size, cumulative in re.findall(pattern, page):
        counts[int(size)] = float(cumulative) - before
        before = float(cumulative)
    return counts


def test_callers_in_a_loop_share_runs_and_get_their_own_rows(server):
    rounds, callers = 5, 8

    def loop(caller):
        for number in range(rounds):
            rows = [0.05, 0.05 + (caller + number / 10) / 1000]
            status, reply = predict(server, "slow", {"inputs": rows})
            assert status == 200, reply
            assert reply["outputs"]["echo"] == about(rows, 1)  # float32

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(loop, range(callers)))
    counts = batches(server, "slow")
    runs, rows = sum(counts.values()), sum(size * count for size, count in counts.items())
    assert rows == rounds * callers * 2
    assert rows / runs > 5, counts  # 8 is the best, 2 is no batching


def test_a_group_runs_whole_though_its_callers_come_one_after_the_other():
    options = BatchingOptions(max_batch_size=8, batch_timeout_micros=2_000_000)
    call = batched_function(
        lambda x: [x + 1.0],
        [tf.TensorSpec([None], tf.float32)],
        options,
        scheduler="late",
        queue="1",
    )

    def send(late):
        time.sleep(late / 10)
        return call(tf.constant([float(late)]))

    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(send, range(3)))
    assert [y.numpy().tolist() for y, _ in replies] == [[1.0], [2.0], [3.0]]
    assert [size.numpy().tolist() for _, size in replies] == [[3]] * 3


def test_one_callers_bad_row_fails_that_caller_alone(server):
    values = [1.0, 2.0, -3.0, 4.0, 5.0, 6.0]
    barrier = threading.Barrier(len(values))

    def send(value):
        barrier.wait()
        return predict(server, "picky", {"instances": [value]})

    with ThreadPoolExecutor(len(values)) as pool:
        replies = list(pool.map(send, values))
    for value, (status, reply) in zip(values, replies, strict=True):
        if value < 0:
            assert status == 400 and "x must not be negative" in reply["error"]
        else:
            assert (status, reply) == (200, {"predictions": [value]})


def test_requests_of_different_widths_are_all_answered(server):
    barrier = threading.Barrier(6)

    def send(width):
        barrier.wait()
        body = {"signature_name": "ragged_width", "inputs": [[1.0] * width]}
        return predict(server, "several", body)

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(send, range(1, 7)))
    assert replies == [(200, {"outputs": [float(width)]}) for width in range(1, 7)]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_row_of_another_shape_fails_its_own_request_alone(protocol):
    # The signature leaves the width open; the model needs two numbers a row.
    rows = [[[1.0, 5.0]], [[9.0, 2.0], [8.0, 8.0]], [[1.0, 2.0, 3.0]], [[4.0, 1.0]], [[7.0]]]
    want = {0: [-4.0], 1: [7.0, 0.0], 3: [3.0]}
    grpc_port = 0 if protocol == "grpc" else None
    with (
        start(toy_base(), grpc_port=grpc_port, batch_timeout_micros=200_000) as server,
        ThreadPoolExecutor(3 * len(rows)) as pool,
    ):
        address = server.grpc_address if protocol == "grpc" else server.rest_address
        barrier = threading.Barrier(3 * len(rows))

        def send(number):
            with Client(address, model="several", protocol=protocol) as client:
                client.input_names("pairs")  # asks for the metadata before all begin
                barrier.wait()
                found = []
                for _ in range(3):
                    try:
                        x = np.float32(rows[number % len(rows)])
                        found.append(client.predict(x, signature_name="pairs")["difference"])
                    except ServingError as error:
                        found.append(error)
                return found

        answers = list(pool.map(send, range(3 * len(rows))))
        sizes = batches(server, "several", "pairs")
    for number, found in enumerate(answers):
        for answer in found:
            if (good := want.get(number % len(rows))) is not None:
                assert isinstance(answer, np.ndarray), answer
                assert answer.tolist() == good
            else:
                assert isinstance(answer, ServingError) and answer.code == "INVALID_ARGUMENT"
                assert "[[" not in answer.message and "stack" not in answer.message
    assert sum(sizes.values()) > 0


def test_a_request_larger_than_a_batch_is_split(server):
    status, reply = predict(server, "slow", {"inputs": [0.01] * 20})
    assert status == 200
    assert sorted(reply["outputs"]["rows"]) == [4] * 4 + [8] * 16


def test_a_large_request_whose_outputs_vary_in_width_runs_whole(server):
    texts = ["x" * length for length in range(1, 20)]
    status, reply = predict(server, "parrot", {"signature_name": "score", "inputs": texts})
    assert status == 200
    assert reply["outputs"]["num_tokens"] == list(range(1, 20))


def test_a_request_of_more_rows_than_may_wait_is_refused(server):
    for model, body in (
        ("half", {"inputs": [0.0] * 801}),
        ("parrot", {"signature_name": "score", "inputs": ["x"] * 801}),
    ):
        status, reply = predict(server, model, body)
        assert status == 400 and "may have 800 rows" in reply["error"], reply


def test_without_batching_every_request_runs_by_itself():
    with start(toy_base(), batching=False) as server, ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: predict(server, "slow", {"inputs": [0.05]}), range(4)))
    assert [reply["outputs"]["rows"] for _, reply in replies] == [[1]] * 4


def test_a_full_queue_refuses_with_unavailable():
    with (
        start(toy_base(), max_batch_size=1, max_enqueued_batches=1) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        running = [pool.submit(predict, server, "slow", {"inputs": [0.7]}) for _ in range(2)]
        until(lambda: server._limit.count == 2)
        status, reply = predict(server, "half", {"inputs": [1.0]})
        assert status == 503 and "2 requests are running" in reply["error"]
        assert [future.result()[0] for future in running] == [200, 200]
        assert predict(server, "half", {"inputs": [1.0]})[0] == 200
