"""Eight clients of `tfllm serve` compared with one offline batch of eight, in tokens per second."""

from __future__ import annotations

import argparse
import os
import tempfile
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from random_model import random_task
from side_by_side import interleaved, print_table

from tfllm.generation.option_inputs import OPTION_DTYPES
from tfllm.generation.options import option_values
from tfllm.optimization.precision import choose_precision
from tfllm.serving import Client, ModelServer
from tfllm.serving.exporting import export

CLIENTS = 8
PROMPT = "the people of these states and the government of the union"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3, help="of each client in a round")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--size", default="smollm2-135m")
    options = parser.parse_args()
    dtype = choose_precision("auto")
    with tempfile.TemporaryDirectory() as folder:
        task = random_task(options.size, dtype, max_new_tokens=options.new_tokens)
        path = export(task, os.path.join(folder, "model"))
        loaded = tf.saved_model.load(str(path))
        values = option_values(task.generation)

        def offline() -> None:
            for _ in range(options.requests):
                batch = {
                    n: tf.fill([CLIENTS], tf.constant(values[n], t))
                    for n, t in OPTION_DTYPES.items()
                }
                loaded.signatures["generate"](prompt=tf.fill([CLIENTS], PROMPT), **batch)[
                    "text"
                ].numpy()

        with ModelServer(folder, rest_port=0, grpc_port=0, max_batch_size=CLIENTS) as server:

            def clients(protocol: str, address: str) -> None:
                def ask() -> None:
                    client = Client(address, model="model", protocol=protocol)
                    for _ in range(options.requests):
                        client.generate(PROMPT)
                    client.close()

                threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            runs = {
                "one offline batch of 8": offline,
                "8 clients, REST": lambda: clients("rest", server.rest_address),
                "8 clients, gRPC": lambda: clients("grpc", server.grpc_address),
            }
            seconds = interleaved(runs, options.rounds)
    base = next(iter(seconds.values()))
    table = [(f"serving {options.size}, {dtype}", "tokens/s", "of offline")]
    for name, value in seconds.items():
        rate = CLIENTS * options.requests * options.new_tokens / value
        table.append((name, f"{rate:.0f}", f"{base / value:.2f}x"))
    print_table(f"Serving, {options.new_tokens} new tokens a request", table)


if __name__ == "__main__":
    main()
