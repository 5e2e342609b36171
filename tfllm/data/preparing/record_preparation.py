"""Prepare records with columns as the examples of a task, each a set of integer arrays."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfllm.config import ConfigError, PrepareConfig
from tfllm.data.preparing.splitting import CorpusCensus, document_hash
from tfllm.data.reading.json_records import BadRecord, BadRecords
from tfllm.data.reading.sources import SourceFile
from tfllm.data.reading.table_records import (
    Column,
    Record,
    Source,
    Table,
    as_source,
    read_table,
    source_files,
)
from tfllm.data.shards.shard_files import ShardWriter, file_sha256

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

VALIDATION_RECORDS = "validation.jsonl"
TRUNCATED = "truncated"
"""Name of an example's array, of shape [1], with the number of its texts that were truncated. It is
counted and reported, but not stored."""
_SHARD_NUMBERS = 50_000_000


class UnknownInTraining(ValueError):
    """A valid record that a model cannot predict, such as one with a label unseen in training."""


class ExampleMaker(Protocol):
    """The part of a task that makes examples of records; see `tfllm.tasks.record_task.RecordTask`.

    A separate protocol, since `data` does not import tasks.
    """

    @property
    def name(self) -> str:
        """Name of the task in the manifest."""

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns of a record."""

    @property
    def token_features(self) -> Sequence[str]:
        """Names of the arrays of an example whose elements are counted as tokens."""

    @property
    def min_sequence_length(self) -> int:
        """The smallest sequence length that leaves room for text."""

    def information(self, records: Sequence[Record]) -> dict[str, Any]:
        """Information from the training records that the model needs, such as the labels."""

    def tokenizer(
        self, base: str | None, records: Iterable[Record], *, vocab_size: int
    ) -> Tokenizer:
        """The tokenizer of a pretrained model, or a new one."""

    def examples(
        self,
        record: Record,
        tokenizer: Tokenizer,
        information: Mapping[str, Any],
        sequence_length: int,
    ) -> list[dict[str, np.ndarray]]:
        """Convert a record to training examples."""

    def key(self, record: Record) -> str:
        """The text whose hash decides whether a record is held out for validation."""


def record_files(
    source: Source, config: PrepareConfig, *, exclude: Sequence[str | Path] = ()
) -> list[SourceFile]:
    """All files of records, including validation files, without duplicates."""
    found = source_files(as_source(source), exclude=exclude)
    if config.validation:
        found += source_files(as_source(config.validation), exclude=exclude)
    return list({os.path.realpath(file.path): file for file in found}.values())


class RecordPreparation:
    """The preparation of records with columns, which are held in memory.

    Args:
        task: makes examples of records.
        source: files of records (see `tfllm.data.reading.table_records`).
        config: settings; the tokenizer, if given, is that of the pretrained model to train.
        exclude: folders that are not searched.
        bar: creates a progress bar.

    Raises:
        ConfigError: the sequence length leaves no room for text.
    """

    layout = "task"

    def __init__(
        self,
        task: ExampleMaker,
        source: Source,
        config: PrepareConfig,
        *,
        exclude: Sequence[str | Path] = (),
        bar: Callable[..., Any],
    ) -> None:
        assert config.sequence_length is not None
        if config.sequence_length < task.min_sequence_length:
            raise ConfigError(
                f"sequence_length must be at least {task.min_sequence_length} for "
                f"{task.name}; received {config.sequence_length}"
            )
        self._task = task
        self._source = as_source(source)
        self._config = config
        self._exclude = exclude
        self._bar = bar
        self._notes: list[str] = []
        self._files: list[SourceFile] = []
        self._training: list[Record] = []
        self._validation: list[Record] = []
        self._information: dict[str, Any] = {}
        self._tokenizer: Tokenizer | None = None

    def survey(self) -> None:
        """Read and divide all records, and collect the information in the training records.

        Raises:
            FileNotFoundError: there are no such files.
            ValueError: a file or record cannot be used (the error names its place), or nothing can
                be learned from the records.
        """
        table, held_out = self._tables()
        self._training, self._validation, notes = self._train_and_validation(table, held_out)
        self._files = table.files if held_out is None else [*table.files, *held_out.files]
        more = [] if held_out is None else held_out.notes
        self._notes = [*table.notes, *more, *notes]
        try:
            found = self._task.information(self._training)
        except ValueError as error:
            if held_out is not None or not self._validation:
                raise
            raise ValueError(
                f"{error} ({len(self._validation):,} of {len(table.records):,} records are not "
                "among them: they are held out for validation, by validation_fraction)"
            ) from None
        self._information = json.loads(json.dumps(found))
        self._information["sequence_length"] = self._config.sequence_length

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pretrained model, or a new one, trained on the training records."""
        if self._tokenizer is None:
            self._tokenizer = self._task.tokenizer(
                self._config.tokenizer, self._training, vocab_size=self._config.vocab_size
            )
        return self._tokenizer

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the shards and the validation records.

        Returns:
            The manifest's entries for them.

        Raises:
            ValueError: a record cannot be used, or no record gives an example.
        """
        length = self._config.sequence_length
        assert length is not None
        bad = BadRecords(self._config.skip_bad_records)
        writer = _ExampleWriter(self._task, self.tokenizer(), self._information, length, bad)
        total = len(self._training) + len(self._validation)
        with self._bar(total=total, desc="tokenizing", unit="record") as bar:
            splits = {"train": writer.write(folder, "train", self._training, bar)}
            splits["validation"] = writer.write(folder, "validation", self._validation, bar)
        if not splits["train"]["num_examples"]:
            raise ValueError(
                f"there is nothing to learn from: none of {len(self._training):,} records gives an "
                "example" + (f": {bad.note()}" if bad.count else "")
            )
        self._notes += writer.notes(length) + bad.warn()
        return {
            "records": "task",
            "task": {
                "name": self._task.name,
                "information": self._information,
                "features": writer.features,
                "sequence_length": length,
            },
            "dtype": "uint32",
            "splits": splits,
            "record_files": self._write_validation_records(folder),
            "sources": [_entry(file) for file in self._files],
        }

    def all_notes(self) -> list[str]:
        """All notes about the result."""
        return self._notes

    def _write_validation_records(self, folder: Path) -> dict[str, str]:
        if not self._validation:
            return {}
        path = folder / VALIDATION_RECORDS
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in self._validation)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        return {VALIDATION_RECORDS: file_sha256(path)}

    def _tables(self) -> tuple[Table, Table | None]:
        """The records of the training files, and those of the validation files, if given."""
        config, source = self._config, self._source

        def read(source: Source) -> Table:
            return read_table(
                source,
                self._task.columns,
                config.column_names,
                skip_bad_records=config.skip_bad_records,
                exclude=self._exclude,
                encoding=config.encoding,
            )

        if not config.validation:
            return read(source), None
        validation = as_source(config.validation)
        if not isinstance(source, Mapping) and not isinstance(validation, Mapping):
            # The files of a folder without the validation files.
            held_out = {os.path.realpath(file.path) for file in source_files(validation)}
            files = source_files(source, exclude=self._exclude)
            source = [file.path for file in files if os.path.realpath(file.path) not in held_out]
            if not source:
                raise ValueError("no file is left to train on: all are validation files")
        return read(source), read(validation)

    def _train_and_validation(
        self, table: Table, held_out: Table | None
    ) -> tuple[list[Record], list[Record], list[str]]:
        """Training records, validation records, and notes."""
        seed, key = self._config.seed, self._task.key
        hashes = [document_hash(key(record), seed) for record in table.records]
        if held_out is not None:
            there = {document_hash(key(record), seed) for record in held_out.records}
            copies = sum(hashed in there for hashed in hashes)
            notes = []
            if copies:
                notes = [
                    f"{copies:,} of the {len(hashes):,} training records are also in the "
                    "validation files: metrics will be too good"
                ]
            return table.records, held_out.records, notes
        census = CorpusCensus()
        for hashed in hashes:  # the fraction is of records, not of bytes
            census.add(hashed, 1)
        fraction = self._config.validation_fraction
        assert fraction is not None
        limit = census.validation_limit(fraction)
        training = [r for r, h in zip(table.records, hashes, strict=True) if h > limit]
        validation = [r for r, h in zip(table.records, hashes, strict=True) if h <= limit]
        notes = []
        if not validation and fraction:
            notes = ["there are no validation records: all records are copies of one"]
        return training, validation, notes


class _ExampleWriter:
    """Converts records to examples and writes them to shards."""

    def __init__(
        self,
        task: ExampleMaker,
        tokenizer: Tokenizer,
        information: dict[str, Any],
        sequence_length: int,
        bad: BadRecords,
    ) -> None:
        self._task = task
        self._tokenizer = tokenizer
        self._information = information
        self._sequence_length = sequence_length
        self._bad = bad
        self._truncated = 0
        self._texts = 0
        self.features: list[str] = []
        """names of the arrays of an example, in the order in which they are written"""

    def write(
        self, folder: Path, split: str, records: Sequence[Record], bar: Any
    ) -> dict[str, Any]:
        """Write a split; returns the manifest's entry for it.

        Raises:
            BadRecord: a record cannot be used.
        """
        numbers = ShardWriter(folder, split, "uint32", _SHARD_NUMBERS)
        index = ShardWriter(folder, f"{split}-index", "uint32", _SHARD_NUMBERS)
        counts = {"num_documents": 0, "num_examples": 0, "num_tokens": 0, "num_bytes": 0}
        try:
            for record in records:
                bar.update()
                try:
                    examples = self._task.examples(
                        record, self._tokenizer, self._information, self._sequence_length
                    )
                except ValueError as error:
                    message = f" ({split}): {error}"
                    if split == "validation" and isinstance(error, UnknownInTraining):
                        message += (
                            "; validation records must not go beyond the training data: add such "
                            "records to the training data, or leave this one out"
                        )
                    self._bad(BadRecord(record.where, message))
                    continue
                counts["num_documents"] += 1
                counts["num_bytes"] += len(self._task.key(record).encode())
                for example in examples:
                    counts["num_examples"] += 1
                    counts["num_tokens"] += self._write(example, numbers, index)
            numbers.close()
            index.close()
        finally:
            numbers.abandon()
            index.abandon()
        shards = {"shards": numbers.shards, "index": index.shards}
        return {
            **counts,
            **{name: [dataclasses.asdict(s) for s in found] for name, found in shards.items()},
        }

    def _write(self, example: dict[str, Any], numbers: ShardWriter, index: ShardWriter) -> int:
        """Append an example; returns its number of tokens."""
        arrays = {name: np.asarray(array, np.int32) for name, array in example.items()}
        truncated = arrays.pop(TRUNCATED, None)
        if truncated is not None:
            self._texts += 1
            self._truncated += int(truncated.sum() > 0)
        self.features = self.features or sorted(arrays)
        assert sorted(arrays) == self.features, f"{sorted(arrays)} must be {self.features}"
        assert all(array.ndim == 1 for array in arrays.values()), "arrays of one dimension"
        numbers.write(np.concatenate([arrays[n] for n in self.features]).view(np.uint32))
        index.write(np.array([len(arrays[n]) for n in self.features], np.uint32))
        return sum(len(arrays[n]) for n in self._task.token_features if n in arrays)

    def notes(self, sequence_length: int) -> list[str]:
        """A note on how many examples were truncated."""
        if not self._truncated:
            return []
        return [
            f"{self._truncated:,} of {self._texts:,} examples are longer than {sequence_length:,} "
            "tokens and were truncated; a longer sequence_length keeps more"
        ]


def _entry(file: SourceFile) -> dict[str, Any]:
    return {
        "path": file.path.as_posix(),
        "num_bytes": file.num_bytes,
        "sha256": file_sha256(file.path),
    }
