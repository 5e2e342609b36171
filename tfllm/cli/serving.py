"""The commands `serve` and `query`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from tfllm.cli.arguments import AddCommand
from tfllm.cli.settings import add_settings, settings
from tfllm.cli.terminal import print_stream, quiet_start
from tfllm.config import ConfigError, GenerationConfig, build
from tfllm.serving.batching_options import DEFAULT_BATCHING


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    serve = add("serve", "Serve models over TensorFlow Serving's REST and gRPC", _serve)
    serve.add_argument("base", help="the folder of exported models, such as saved_models")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--rest-port", type=int, default=8501, help="0: any free one")
    serve.add_argument("--grpc-port", type=int, default=8500, help="0: any free one")
    rows = DEFAULT_BATCHING.max_batch_size
    serve.add_argument("--max-batch-size", type=int, default=rows, help="rows run together")
    serve.add_argument("--max-body-bytes", type=int, default=16 << 20, help="of a REST request")
    serve.add_argument("--no-batching", action="store_true", help="run each request alone")

    _add_flag(
        serve,
        "allow_version_labels_for_unavailable_models",
        "let version labels of models.config name versions that are not loaded yet, as none is "
        "when the server starts; TensorFlow Serving's flag",
    )
    _add_flag(
        serve,
        "rest_api_enable_cors_support",
        "let web pages of other origins call REST; TensorFlow Serving's flag",
    )

    query = add("query", "Ask a server, ours or TensorFlow Serving", _query)
    query.add_argument("model", help="the model's name")
    query.add_argument(
        "prompt",
        nargs="+",
        help="texts to continue, or a task's inputs; top_p=0.9 "
        "among them is a setting, as with --set; behind -- all is text",
    )
    query.add_argument("--address", default="127.0.0.1:8501", help="the server's")
    query.add_argument("--grpc", action="store_true", help="speak gRPC (port 8500 by default)")
    query.add_argument("--score", action="store_true", help="score the texts instead")
    query.add_argument("--stream", action="store_true", help="token by token (`tfllm serve` only)")
    query.add_argument(
        "--chat", action="store_true", help="each text is a question to a chat model"
    )
    query.add_argument("--system", help="with --chat: a system message")
    query.add_argument(
        "--signature",
        help="run this signature; then the texts are its inputs, as text='How lovely!' (one named "
        "again begins a new row; an only one need not be named). Default: serving_default of a "
        "task, else text is generated",
    )
    query.add_argument("--model-version", type=int, help="default: the newest")
    add_settings(query, "generation")


def _add_flag(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """A flag of TensorFlow Serving, spelt as there or with hyphens, bare or with =true or =false.

    A value is a part of the word, so that the flag never takes the next argument for one.
    """
    spellings = (f"--{name.replace('_', '-')}", f"--{name}")
    parser.add_argument(
        *spellings, dest=name, action="store_true", help=f"{meaning} (default: false)"
    )
    for value in ("true", "false"):
        parser.add_argument(
            *(f"{spelling}={value}" for spelling in spellings),
            dest=name,
            action="store_true" if value == "true" else "store_false",
            default=False,
            help=argparse.SUPPRESS,
        )


def _serve(options: argparse.Namespace) -> int:
    # TensorFlow takes seconds to load, and a container that is stopped meanwhile ends as cleanly.
    before = signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    try:
        with quiet_start():
            from tfllm.serving import ModelServer
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
        )
        server = ModelServer(
            options.base,
            host=options.host,
            rest_port=options.rest_port,
            grpc_port=options.grpc_port,
            batching=not getattr(options, "no_batching", False),
            max_batch_size=options.max_batch_size,
            max_body_bytes=options.max_body_bytes,
            allow_version_labels_for_unavailable_models=(
                options.allow_version_labels_for_unavailable_models
            ),
            rest_api_enable_cors_support=options.rest_api_enable_cors_support,
        )
        return server.serve_forever()
    finally:
        signal.signal(signal.SIGTERM, before)


def _query(options: argparse.Namespace) -> None:
    given = settings(options, "generation")["generation"]
    config = build(GenerationConfig, given)
    chosen = {name: getattr(config, name) for name in given if name != "num_samples"}
    from tfllm.serving.client.client import Client

    grpc = getattr(options, "grpc", False)
    if grpc:  # its messages are TensorFlow's
        with quiet_start():
            pass
    address = options.address
    if grpc and address == "127.0.0.1:8501":
        address = "127.0.0.1:8500"
    with Client(
        address,
        model=options.model,
        version=getattr(options, "model_version", None),
        protocol="grpc" if grpc else "rest",
    ) as client:
        _ask(client, options, config, chosen)


def _ask(
    client: Any, options: argparse.Namespace, config: GenerationConfig, chosen: dict[str, Any]
) -> None:
    """Print what a server answers."""
    signature = getattr(options, "signature", None)
    generates = any(getattr(options, name, False) for name in ("chat", "score", "stream"))
    if not signature and not generates and "prompt" not in client.input_names():
        signature = "serving_default"  # of a task
    if signature:
        if chosen:
            raise ConfigError(
                f"settings are for text that is generated, and {signature} of {options.model} "
                f"takes none; leave {', '.join(chosen)} out"
            )
        for row in client.rows(signature, rows_of(options.prompt, client.input_names(signature))):
            print(json.dumps(row, ensure_ascii=False))
    elif getattr(options, "chat", False):
        if config.num_samples > 1:
            raise ConfigError(f"num_samples must be 1 for a chat; received {config.num_samples}")
        for text in options.prompt:
            messages = [{"role": "user", "content": text}]
            if system := getattr(options, "system", ""):
                messages.insert(0, {"role": "system", "content": system})
            if getattr(options, "stream", False):
                print_stream("", client.stream_chat(messages, **chosen))
            else:
                print(client.chat(messages, **chosen))
    elif getattr(options, "score", False):
        for text, score in zip(options.prompt, client.score(options.prompt), strict=True):
            print(f"{text!r}: {score}")
    elif getattr(options, "stream", False):
        if config.num_samples > 1:
            raise ConfigError(f"num_samples must be 1 for a stream; received {config.num_samples}")
        for prompt in options.prompt:
            print_stream(prompt, client.stream(prompt, **chosen))
    else:
        requests = [chosen]
        if config.num_samples > 1:
            seeds = range(config.seed, config.seed + config.num_samples)
            requests = [{**chosen, "seed": seed % 2**31} for seed in seeds]
        answers = [client.generate(options.prompt, **request) for request in requests]
        for prompt, *texts in zip(options.prompt, *answers, strict=True):
            for text in texts:
                print(f"{prompt}{text}")


def rows_of(words: Sequence[str], names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of inputs given as NAME=VALUE; a name that was given already begins the next.

    Where there is one input alone, its name may be left out.

    Args:
        words: of the command line.
        names: of the inputs.

    Raises:
        ConfigError: a word is no such pair, or a row lacks what another has.
    """
    rows: list[dict[str, str]] = [{}]
    for word in words:
        name, equals, value = word.partition("=")
        if len(names) == 1 and name != names[0] and not (equals and name.isidentifier()):
            name, value = names[0], word
        elif not equals:
            told = " ".join(f"{name}=VALUE" for name in names)
            raise ConfigError(f"inputs are given as {told}; received {word!r}")
        if name in rows[-1]:
            rows.append({})
        rows[-1][name] = value
    for number, row in enumerate(rows, 1):
        if set(row) != set(rows[0]):
            raise ConfigError(
                f"all rows must have the same inputs ({', '.join(rows[0])}); row {number} has "
                f"{', '.join(row)}"
            )
    return rows
