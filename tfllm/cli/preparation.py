"""The command `prepare`."""

from __future__ import annotations

import argparse

from tfllm.cli.arguments import AddCommand, add_settings
from tfllm.cli.settings import settings
from tfllm.cli.terminal import quiet_start
from tfllm.config import PrepareConfig, build


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    prepare = add(
        "prepare",
        "Tokenize text or records into shards of training data",
        _prepare,
        "tfllm prepare my_texts/ --out data --vocab-size 8192",
    )
    prepare.add_argument(
        "text",
        metavar="PATH",
        nargs="+",
        help="files (.txt, .md, .jsonl, .json, .csv, .tsv, each also .gz; .parquet), folders or "
        "globs",
    )
    prepare.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    prepare.add_argument(
        "--task",
        metavar="TASK",
        help="what a model will learn, such as classification; default: by the data: "
        "language_modeling for text, instruction for conversations, preference for preferences",
    )
    prepare.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    add_settings(prepare, "prepare")
    prepare.lead_with(
        *("--out", "--task", "--vocab-size", "--tokenizer", "--sequence-length", "--columns"),
        *("--validation-fraction", "--validation", "--encoding", "--skip-bad-records"),
        *("--overwrite",),
    )


def _prepare(options: argparse.Namespace) -> None:
    config = build(PrepareConfig, settings(options, "prepare")["prepare"])
    if config.tokenizer:  # reading a model's tokenizer imports TensorFlow
        with quiet_start():
            pass
    from tfllm.tasks.preparing import prepare

    data = prepare(
        options.text,
        options.out,
        config,
        task=getattr(options, "task", None),
        overwrite=getattr(options, "overwrite", False),
    )
    print(data.describe())
    model = f" --model {config.tokenizer}" if config.tokenizer else ""
    print(f"train with: tfllm train --data {options.out}{model} --out runs/NAME")
