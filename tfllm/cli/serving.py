"""The commands `serve` and `query`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
from dataclasses import fields
from typing import Any

from tfllm.cli.arguments import GENERATION, AddCommand, add_settings
from tfllm.cli.help import Parser
from tfllm.cli.settings import rows_of, settings
from tfllm.cli.terminal import print_stream, quiet_start
from tfllm.config import ConfigError, GenerationConfig, build, field_docs
from tfllm.serving.batching_options import BatchingOptions


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    serve = add(
        "serve",
        "Serve exported models over the REST and gRPC API of TensorFlow Serving",
        _serve,
        "tfllm serve saved_models --rest-port 8501",
    )
    serve.add_argument(
        "base", metavar="FOLDER", help="the folder of the exported models, such as saved_models"
    )
    serve.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen on"
    )
    for protocol, port in (("rest", 8501), ("grpc", 8500)):
        serve.add_argument(
            f"--{protocol}-port", type=int, metavar="PORT", default=port, help="0: any free port"
        )
    serve.add_argument(
        "--max-body-bytes",
        type=int,
        metavar="N",
        default=16 << 20,
        help="largest body of a REST request, in bytes",
    )
    serve.add_argument(
        "--no-batching", action="store_true", help="run each request as a batch of its own"
    )
    for field in fields(BatchingOptions):
        serve.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=int,
            metavar="N",
            default=field.default,
            help=field_docs(BatchingOptions)[field.name],
        )
    _add_flag(
        serve,
        "allow_version_labels_for_unavailable_models",
        "allow version labels in models.config for versions that are not loaded yet; when the "
        "server starts, no version is; the flag of TensorFlow Serving",
    )
    _add_flag(
        serve,
        "rest_api_enable_cors_support",
        "allow cross-origin REST requests from web pages (CORS); the flag of TensorFlow Serving",
    )

    query = add(
        "query",
        "Send requests to a model server: `tfllm serve` or TensorFlow Serving",
        _query,
        'tfllm query mine "Once upon a time" --max-new-tokens 50',
    )
    query.add_argument("model", metavar="MODEL", help="the name of the served model")
    query.add_argument(
        "prompt",
        metavar="TEXT",
        nargs="+",
        help="prompts, or the inputs of a task. A word such as top_p=0.9 is a setting; everything "
        "after -- is text",
    )
    query.add_argument(
        "--address",
        metavar="HOST:PORT",
        default="127.0.0.1:8501",
        help="address of the server; with --grpc the default port is 8500",
    )
    query.add_argument("--grpc", action="store_true", help="use gRPC instead of REST")
    query.add_argument(
        "--score",
        action="store_true",
        help="print the log-likelihood of the texts instead of continuing them",
    )
    query.add_argument(
        "--stream",
        action="store_true",
        help="print tokens as they are generated (`tfllm serve` only)",
    )
    query.add_argument("--chat", action="store_true", help="send each text as a chat message")
    query.add_argument("--system", metavar="TEXT", help="with --chat: the system message")
    query.add_argument(
        "--signature",
        metavar="NAME",
        help="call this signature with the texts as its inputs, such as text='How lovely!'; "
        "repeating an input's name starts the next row, and a single input needs no name. Default: "
        "serving_default for a task, otherwise text is generated",
    )
    query.add_argument(
        "--model-version", type=int, metavar="N", help="version to ask; default: the latest"
    )
    add_settings(query, "generation")
    query.lead_with(
        *("--address", "--grpc", "--chat", "--system", "--stream", "--score", "--signature"),
        *GENERATION,
    )


def _add_flag(parser: Parser, name: str, meaning: str) -> None:
    """Add a boolean flag of TensorFlow Serving, bare or with =true or =false.

    It may be written with underscores, as in TensorFlow Serving, or with hyphens. The value is part
    of the word, so the flag never consumes the next argument.
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
    # TensorFlow takes seconds to load; a container that is stopped meanwhile must also exit with 0.
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
            **{field.name: getattr(options, field.name) for field in fields(BatchingOptions)},
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
    if grpc:  # gRPC messages need TensorFlow, which prints when it is imported
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
    """Send the texts to a server and print its answers."""
    signature = getattr(options, "signature", None)
    generates = any(getattr(options, name, False) for name in ("chat", "score", "stream"))
    if not signature and not generates and "prompt" not in client.input_names():
        signature = "serving_default"  # the model is of a task that generates no text
    if signature:
        if chosen:
            raise ConfigError(
                f"settings apply to generated text, but the signature {signature} of "
                f"{options.model} takes no settings; leave {', '.join(chosen)} out"
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
