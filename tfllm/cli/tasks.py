"""The commands `predict` and `mine`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tfllm.cli.arguments import (
    AddCommand,
    add_columns,
    add_encoding,
    add_model,
    add_prompt_name,
    add_task,
)
from tfllm.cli.settings import columns_of, encoding_of, record_of
from tfllm.cli.terminal import quiet_start
from tfllm.config import ConfigError


def add_commands(add: AddCommand) -> None:
    """Add the commands of this module."""
    predict = add(
        "predict",
        "Predict with the model of a task; prints JSON Lines",
        _predict,
        "tfllm predict runs/mine text='How lovely!'",
    )
    add_model(predict)
    predict.add_argument(
        "record",
        nargs="*",
        default=[],
        metavar="COLUMN=VALUE",
        help="one record, such as text='How lovely!'; or files of records",
    )
    add_task(predict)
    add_columns(predict)
    add_encoding(predict)
    predict.add_argument(
        "--batch-size", type=int, metavar="N", default=32, help="examples per batch"
    )
    add_prompt_name(predict)

    mine = add(
        "mine",
        "Extract names and their relations from text as a knowledge graph",
        _mine,
        "tfllm mine my_texts/ --out graph.graphml",
    )
    mine.add_argument(
        "text",
        metavar="PATH",
        nargs="+",
        help="files (.txt, .md, .jsonl, .json, each also .gz), folders or globs",
    )
    mine.add_argument(
        "--out", required=True, metavar="FILE", help="graph to write: a .graphml or .json file"
    )
    add_encoding(mine)
    mine.add_argument(
        "--picture", metavar="FILE", help="also draw the graph to this .png file (needs matplotlib)"
    )
    mine.add_argument(
        "--tagger", metavar="MODEL", help="model of the task tagging, to find the names"
    )
    mine.add_argument(
        "--min-count", type=int, metavar="N", default=5, help="minimum mentions of a name"
    )
    mine.add_argument(
        "--min-log-likelihood",
        type=float,
        metavar="X",
        default=10.83,
        help="minimum log-likelihood ratio (Dunning, 1993) of two names that share sentences",
    )


def _predict(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.pretrained import task_of
        from tfllm.tasks import TASKS, load, task_named
    words = options.record
    if not words:
        raise ConfigError("name a record, such as text='How lovely!', or files of records")
    task = getattr(options, "task", None)
    served = load(options.model, task=task)
    if hasattr(options, "prompt_name"):
        served = served.with_settings({"prompt_name": options.prompt_name})
    names = served.input_names
    record = record_of(words, names)
    records: Any = [record]
    if record is None:
        from tfllm.data.reading.table_records import Column, read_table

        task = task or (task_of(options.model) or {}).get("name")
        known = task_named(task).columns if task in TASKS else {}
        columns = {
            n: Column(
                aliases=known[n].aliases if n in known else (),
                required=n not in served.optional_inputs,
            )
            for n in names
        }
        records = read_table(
            words,
            columns,
            columns_of(options),
            only_inputs=True,
            empty_inputs=True,
            encoding=encoding_of(options),
        ).records
    for answer in served.predict(records, batch_size=options.batch_size):
        print(json.dumps(answer, ensure_ascii=False))


def _mine(options: argparse.Namespace) -> None:
    with quiet_start():
        from tfllm.charts import model_charts
        from tfllm.data.reading.sources import documents, find_files
        from tfllm.tasks import load
        from tfllm.text_mining.knowledge_graph import check_graph_file
        from tfllm.text_mining.text_mining import mine
    out, picture = Path(options.out), getattr(options, "picture", None)
    check_graph_file(out)  # before the texts are read
    tagger: Any = None
    if hasattr(options, "tagger"):
        tagger = load(options.tagger, task="tagging")
    files = find_files(options.text, encoding=encoding_of(options))
    texts = [text for file in files for text in documents(file)]
    graph = mine(
        texts,
        tagger=tagger,
        min_count=options.min_count,
        min_log_likelihood=options.min_log_likelihood,
    )
    graph.save(out)
    if picture is not None:
        model_charts.save(graph.figure(), picture)
    print(
        f"{out}: {len(graph.entities):,} entities and {len(graph.relations):,} relations in "
        f"{len(texts):,} documents"
    )
