"""The command `prepare`."""

from __future__ import annotations

import argparse

from tfllm.cli.arguments import AddCommand
from tfllm.cli.settings import add_settings, settings
from tfllm.cli.terminal import quiet_start
from tfllm.config import PrepareConfig, build


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    prepare = add("prepare", "Write token shards from the records of a task", _prepare)
    prepare.add_argument(
        "text",
        nargs="+",
        help="files (.txt, .md, .jsonl, .json, .csv, .tsv, each also .gz; .parquet), folders or "
        "globs",
    )
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.add_argument(
        "--task",
        help="what is to be learned, such as classification; default: what the records say, text "
        "(language_modeling), conversations (instruction) or preferences (preference)",
    )
    prepare.add_argument("--overwrite", action="store_true", help="replace the folder")
    add_settings(prepare, "prepare")


def _prepare(options: argparse.Namespace) -> None:
    config = build(PrepareConfig, settings(options, "prepare")["prepare"])
    if config.tokenizer:  # a model's is read by what imports TensorFlow
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
