"""The server's overhead: time per request beyond the model's own, and eight clients vs a batch.

    python benchmarks/serving_overhead.py

The first model is trivial, so that only the overhead is measured. The second is shaped like a
decoder (a loop of 32 products with the same large weights), so that a run of eight rows costs
little more than a run of one: it shows whether the requests of eight clients really run together.
Everything runs in this one process, including the clients, in turns; the figures are medians.
"""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tfllm.serving.client.client import Client
from tfllm.serving.server.server import ModelServer

CLIENTS = 8
STEPS = 32


class Trivial(tf.Module):
    """y = 2 x."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Twice the input."""
        return {"y": x * 2.0}


class Decoder(tf.Module):
    """STEPS products with weights that do not fit into the processor's cache."""

    def __init__(self) -> None:
        super().__init__()
        self.into = tf.Variable(tf.random.normal([1024, 6144], stddev=0.02))
        self.out = tf.Variable(tf.random.normal([6144, 1024], stddev=0.02))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """The sum of the last state of each row."""
        h = tf.tile(x[:, None], [1, 1024])
        for _ in tf.range(STEPS):
            h = tf.tanh(tf.matmul(tf.nn.relu(tf.matmul(h, self.into)), self.out))
        return {"y": tf.reduce_sum(h, 1)}


def seconds(call: Callable[[], object], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def throughput(make: Callable[[], Client], rounds: int) -> float:
    """Requests per second of CLIENTS clients that each send `rounds` requests in sequence."""
    clients = [make() for _ in range(CLIENTS)]
    for client in clients:
        client.metadata()
    ready = threading.Barrier(CLIENTS + 1)

    def loop(client: Client) -> None:
        client.predict([1.0])
        ready.wait()
        for _ in range(rounds):
            client.predict([1.0])

    threads = [threading.Thread(target=loop, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    for client in clients:
        client.close()
    return CLIENTS * rounds / taken


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str, tf.Module] = {"trivial": Trivial(), "decoder": Decoder()}
        for name, model in models.items():
            path = str(Path(folder) / name / "1")
            tf.saved_model.save(model, path, signatures={"serving_default": model.__call__})
        with ModelServer(folder, rest_port=0, grpc_port=0) as server:
            measure(server, Path(folder))


def measure(server: ModelServer, folder: Path) -> None:
    def connect(protocol: str, model: str) -> Client:
        address = server.rest_address if protocol == "rest" else server.grpc_address
        return Client(address, model=model, protocol=protocol)  # type: ignore[arg-type]

    direct = tf.saved_model.load(str(folder / "trivial" / "1")).signatures["serving_default"]
    one = np.ones(1, np.float32)
    print(f"direct call          {1e6 * seconds(lambda: direct(x=tf.constant(one)), 500):8.0f} us")
    for protocol in ("rest", "grpc"):
        with connect(protocol, "trivial") as client:
            alone = seconds(functools.partial(client.predict, [1.0]), 500)
        rate = throughput(functools.partial(connect, protocol, "trivial"), 100)
        print(f"{protocol}, one client     {1e6 * alone:8.0f} us a request")
        print(f"{protocol}, {CLIENTS} clients      {rate:8.0f} requests/s")

    decode = tf.saved_model.load(str(folder / "decoder" / "1")).signatures["serving_default"]
    eight = np.ones(CLIENTS, np.float32)
    for protocol in ("rest", "grpc"):
        offline, served = [], []
        for _ in range(3):
            offline.append(CLIENTS / seconds(lambda: decode(x=tf.constant(eight)), 5))
            served.append(throughput(functools.partial(connect, protocol, "decoder"), 10))
        offline_rate, rate = statistics.median(offline), statistics.median(served)
        print(
            f"decoder, {protocol}: batch of {CLIENTS} offline {offline_rate:.1f} rows/s, "
            f"{CLIENTS} clients {rate:.1f} rows/s, ratio {rate / offline_rate:.2f}"
        )
    single = 1 / seconds(lambda: decode(x=tf.constant(one)), 5)
    print(f"decoder, batch of 1 offline: {single:.1f} rows/s")


if __name__ == "__main__":
    main()
