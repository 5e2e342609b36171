"""What the harnesses have in common: what they ask of a model, and what they give back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from tfllm.data.reading.table_records import Column, Record, Source, read_table
from tfllm.evaluation.measured import Measured, measured
from tfllm.evaluation.measures import Measure
from tfllm.files import atomic_file


class GeneratesText(Protocol):
    """`TextGeneration`, or the `Client` of a served one."""

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Continuations of a list of texts; options are fields of `GenerationConfig`."""


class ScoresText(Protocol):
    """`TextGeneration`, or the `Client` of a served one."""

    def score(self, texts: Any) -> Any:
        """Of each of a list of texts a dictionary with `log_prob` and `num_tokens`."""


@dataclass(frozen=True)
class HarnessResult:
    """What a harness measured."""

    harness: str
    measures: list[Measure]
    predictions: list[dict[str, Any]]
    """of each record: what it was, what the model said, and whether that was right"""
    notes: tuple[str, ...] = ()
    """what a reader of the measures must know, such as that contexts were cut"""

    def measured(self) -> list[Measured]:
        """Each measure with its interval."""
        return measured(self.measures)

    def save(self, path: str | Path) -> Path:
        """Write the predictions, a JSON object a line; the file appears whole or not at all."""
        path = Path(path)
        with atomic_file(path) as file:
            for prediction in self.predictions:
                file.write(json.dumps(prediction, ensure_ascii=False).encode() + b"\n")
        return path


def read_records(
    data: Source | Sequence[Mapping[str, Any]],
    columns: Mapping[str, Column],
    limit: int = 0,
    *,
    empty_inputs: bool = False,
) -> list[Record]:
    """Records of files, or those that are given, by the names of `columns`.

    Args:
        data: files as `read_table` takes them, or records with the columns' own names.
        columns: what a record has.
        limit: the first so many; 0: all.
        empty_inputs: as of `read_table`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or there is no record.
    """
    if limit < 0:
        raise ValueError(f"limit must be at least 0 (0: all records); received {limit}")
    if isinstance(data, list | tuple) and all(isinstance(record, Mapping) for record in data):
        records = [Record(record, f"record {i}") for i, record in enumerate(data, 1)]
        for record in records:
            missing = [n for n, column in columns.items() if column.required and n not in record]
            if missing:
                raise ValueError(f"{record.where} must have {missing}; it has {list(record)}")
        if not records:
            raise ValueError("there must be at least one record; received none")
    else:
        records = read_table(cast(Source, data), columns, empty_inputs=empty_inputs).records
    return records[: limit or None]


def in_batches(
    texts: Sequence[Any], answer: Any, batch_size: int, *, size: Callable[[Any], int] = len
) -> list[Any]:
    """What `answer` gives for each text, asked for batches of texts of like length.

    The longest come first: what does not fit into the memory is found out at once.

    Args:
        texts: or anything else that has a size.
        answer: several of them to as many answers.
        batch_size: the most at once.
        size: of a text.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received {batch_size}")
    order = sorted(range(len(texts)), key=lambda i: size(texts[i]), reverse=True)
    answers: list[Any] = [None] * len(texts)
    for begin in range(0, len(order), batch_size):
        places = order[begin : begin + batch_size]
        for place, given in zip(places, answer([texts[i] for i in places]), strict=True):
            answers[place] = given
    return answers


def cut_note(num_cut: int, num_records: int) -> tuple[str, ...]:
    """What is said of records that were longer than the model's context; nothing where none is."""
    if not num_cut:
        return ()
    return (
        f"{num_cut:,} of {num_records:,} records are longer than the model's context and lost "
        "their beginning, as in lm-evaluation-harness",
    )
