"""From records to the examples of a task, in a folder that every worker reads."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import tfllm
from tfllm.config import ConfigError
from tfllm.data.preparing.output_folder import check_output, written_beside
from tfllm.data.preparing.splitting import CorpusCensus, document_hash
from tfllm.data.reading.json_records import BadRecord, BadRecords
from tfllm.data.reading.sources import SourceFile
from tfllm.data.reading.table_records import Record, Source, Table, read_table, source_files
from tfllm.data.shards.prepared_data import FORMAT, FORMAT_VERSIONS, MANIFEST, TaskData, open_data
from tfllm.data.shards.shard_files import ShardWriter, file_sha256
from tfllm.data.task_data_config import TaskDataConfig
from tfllm.tasks.definition import TRUNCATED, TaskDefinition, UnknownInTraining

if TYPE_CHECKING:
    from tfllm.tokenizers.base import Tokenizer

VALIDATION_RECORDS = "validation.jsonl"
_SHARD_NUMBERS = 50_000_000
_DEFAULTS = {"encoding": "utf-8"}
"""of settings that folders of earlier versions do not have"""


def prepare_task(
    definition: TaskDefinition,
    source: Source,
    out: str | Path,
    config: TaskDataConfig | None = None,
    *,
    base: str | None = None,
    sequence_length: int,
    show_progress: bool = True,
) -> TaskData:
    """Make a folder of examples from records, or open the one that was made from the same ones.

    The folder is written beside its place and renamed when it is whole.

    Args:
        definition: the task.
        source: files of records (see `tfllm.data.reading.table_records`).
        out: the folder.
        config: which records are trained on, and how they are read.
        base: path or name of the pretrained model, whose tokenizer is used; None: a new one is
            trained on the training records.
        sequence_length: the most tokens of an example.
        show_progress: draw a progress bar.

    Raises:
        FileNotFoundError: there are no such files.
        ConfigError: `sequence_length` leaves no room for text.
        ValueError: a file or record cannot be used (with its place), there is nothing to learn, or
            `out` was made from other files or with other settings.
    """
    config = config or TaskDataConfig()
    if sequence_length < definition.least_sequence_length:
        raise ConfigError(
            f"sequence_length must be at least {definition.least_sequence_length} for "
            f"{definition.name}; received {sequence_length}"
        )
    out = Path(out)
    settings = _settings(definition, config, base, sequence_length)
    if (out / MANIFEST).is_file():
        return _opened(source, out, config, settings)
    check_output(out, overwrite=False)
    table, held_out = _tables(definition, source, out, config)
    bad = BadRecords(config.skip_bad_records)
    training, validation, notes = _divided(definition, table, held_out, config)
    if held_out is None:
        files = table.files
        notes = [*table.notes, *notes]
    else:
        files = [*table.files, *held_out.files]
        notes = [*table.notes, *held_out.notes, *notes]
    try:
        information = json.loads(json.dumps(definition.information(training)))
    except ValueError as error:
        if held_out is not None or not validation:
            raise
        raise ValueError(
            f"{error} ({len(validation):,} of {len(table.records):,} records are not among them: "
            "validation_fraction keeps them for validation)"
        ) from None
    information["sequence_length"] = sequence_length
    tokenizer = definition.tokenizer(base, training, vocab_size=config.vocab_size)
    with written_beside(out, False) as folder:
        tokenizer.save(folder)
        tokenizer_files = sorted(path.name for path in folder.iterdir() if path.is_file())
        writer = _ExampleWriter(definition, tokenizer, information, sequence_length, bad)
        bar = tqdm(
            total=len(training) + len(validation),
            desc="tokenizing",
            unit="record",
            disable=not show_progress,
        )
        with bar:
            splits = {"train": writer.write(folder, "train", training, bar)}
            splits["validation"] = writer.write(folder, "validation", validation, bar)
        if not splits["train"]["num_examples"]:
            raise ValueError(
                f"there is nothing to learn from: none of {len(training):,} records gives an "
                "example" + (f": {bad.note()}" if bad.count else "")
            )
        notes += writer.notes(sequence_length) + bad.warn()
        record_files = {}
        if validation:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in validation)
            with open(folder / VALIDATION_RECORDS, "w", encoding="utf-8", newline="") as file:
                file.writelines(lines)
            record_files = {VALIDATION_RECORDS: file_sha256(folder / VALIDATION_RECORDS)}
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSIONS["task"],
            "tfllm_version": tfllm.__version__,
            "records": "task",
            "task": {
                "name": definition.name,
                "information": information,
                "features": writer.features,
                "sequence_length": sequence_length,
            },
            "vocab_size": tokenizer.vocab_size,
            "dtype": "uint32",
            "byte_order": "little",
            "splits": splits,
            "tokenizer_files": {name: file_sha256(folder / name) for name in tokenizer_files},
            "record_files": record_files,
            "sources": [_entry(file) for file in files],
            "settings": settings,
            "notes": notes,
        }
        # In ASCII: the name of a file need not be UTF-8.
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return _task_data(out)


def _tables(
    definition: TaskDefinition, source: Source, out: Path, config: TaskDataConfig
) -> tuple[Table, Table | None]:
    """The records to train on, or to divide; and those of the validation files."""

    def read(source: Source) -> Table:
        return read_table(
            source,
            definition.columns,
            config.columns,
            skip_bad_records=config.skip_bad_records,
            exclude=[out],
            encoding=config.encoding,
        )

    if not config.validation:
        return read(source), None
    if not isinstance(source, Mapping) and not isinstance(config.validation, Mapping):
        # Those of a folder but for its validation files.
        held_out = {os.path.realpath(file.path) for file in source_files(config.validation)}
        files = source_files(source, exclude=[out])
        source = [file.path for file in files if os.path.realpath(file.path) not in held_out]
        if not source:
            raise ValueError("no file is left to train on: all are those of validation")
    return read(source), read(config.validation)


def _divided(
    definition: TaskDefinition, table: Table, held_out: Table | None, config: TaskDataConfig
) -> tuple[list[Record], list[Record], list[str]]:
    """Training records, validation records, and what there is to say."""
    keys = [definition.key(record) for record in table.records]
    hashes = [document_hash(key, config.seed) for key in keys]
    if held_out is not None:
        there = {document_hash(definition.key(r), config.seed) for r in held_out.records}
        copies = sum(hashed in there for hashed in hashes)
        notes = []
        if copies:
            notes = [
                f"{copies:,} of the {len(hashes):,} records to train on are in the validation "
                "files, too: measures will be better than they should"
            ]
        return table.records, held_out.records, notes
    census = CorpusCensus()
    for hashed in hashes:  # counted by records, not by bytes
        census.add(hashed, 1)
    limit = census.validation_limit(config.validation_fraction)
    training = [r for r, h in zip(table.records, hashes, strict=True) if h > limit]
    validation = [r for r, h in zip(table.records, hashes, strict=True) if h <= limit]
    notes = []
    if not validation and config.validation_fraction:
        notes = ["there are no validation records: all records are copies of one"]
    return training, validation, notes


class _ExampleWriter:
    """Records to shards of examples."""

    def __init__(
        self,
        definition: TaskDefinition,
        tokenizer: Tokenizer,
        information: dict[str, Any],
        sequence_length: int,
        bad: BadRecords,
    ) -> None:
        self._definition = definition
        self._tokenizer = tokenizer
        self._information = information
        self._sequence_length = sequence_length
        self._bad = bad
        self._truncated = 0
        self._texts = 0
        self.features: list[str] = []
        """names of an example's arrays, in the order in which they are written"""

    def write(
        self, folder: Path, split: str, records: Sequence[Record], bar: tqdm
    ) -> dict[str, Any]:
        """Write a split; its entry in the manifest.

        Raises:
            BadRecord: a record cannot be learned from.
        """
        numbers = ShardWriter(folder, split, "uint32", _SHARD_NUMBERS)
        index = ShardWriter(folder, f"{split}-index", "uint32", _SHARD_NUMBERS)
        counts = {"num_documents": 0, "num_examples": 0, "num_tokens": 0, "num_bytes": 0}
        try:
            for record in records:
                bar.update()
                try:
                    examples = self._definition.examples(
                        record, self._tokenizer, self._information, self._sequence_length
                    )
                except ValueError as error:
                    told = f" ({split}): {error}"
                    if split == "validation" and isinstance(error, UnknownInTraining):
                        told += (
                            "; what is measured must be known from training: add such records to "
                            "the training data, or leave this one out"
                        )
                    self._bad(BadRecord(record.where, told))
                    continue
                counts["num_documents"] += 1
                counts["num_bytes"] += len(self._definition.key(record).encode())
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
        """Append an example; how many tokens it has."""
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
        return sum(len(arrays[n]) for n in self._definition.token_features if n in arrays)

    def notes(self, sequence_length: int) -> list[str]:
        """What was cut off."""
        if not self._truncated:
            return []
        return [
            f"{self._truncated:,} of {self._texts:,} examples are longer than {sequence_length:,} "
            "tokens and lose their ends; a longer sequence_length keeps more"
        ]


def _settings(
    definition: TaskDefinition, config: TaskDataConfig, base: str | None, sequence_length: int
) -> dict[str, Any]:
    values = {
        **dataclasses.asdict(config),
        "task": definition.name,
        "base": base,
        "sequence_length": sequence_length,
    }
    return json.loads(json.dumps(values, default=str))


def _entry(file: SourceFile) -> dict[str, Any]:
    return {
        "path": file.path.as_posix(),
        "num_bytes": file.num_bytes,
        "sha256": file_sha256(file.path),
    }


def _opened(
    source: Source, out: Path, config: TaskDataConfig, settings: dict[str, Any]
) -> TaskData:
    """The folder that is there, if it was made of the same files in the same way.

    Raises:
        ValueError: it was not.
    """
    data = _task_data(out)
    for name, value in settings.items():
        made = data.manifest["settings"].get(name, _DEFAULTS.get(name))
        if made != value and name != "base":  # which may lie elsewhere now
            raise ValueError(
                f"{out} was prepared with {name} = {made!r}; received {value!r}; say the same, or "
                "give another folder"
            )
    try:
        files = _files(source, out, config)
    except FileNotFoundError:  # what was made of them is good enough
        return data
    made_of = {entry["path"]: entry["sha256"] for entry in data.manifest["sources"]}
    for file in files:
        if made_of.pop(file.path.as_posix(), None) != file_sha256(file.path):
            raise ValueError(_other_files(out, file.path))
    if made_of:
        raise ValueError(_other_files(out, next(iter(made_of))))
    return data


def _files(source: Source, out: Path, config: TaskDataConfig) -> list[SourceFile]:
    found = source_files(source, exclude=[out])
    if config.validation:
        found += source_files(config.validation, exclude=[out])
    return list({os.path.realpath(file.path): file for file in found}.values())


def _other_files(out: Path, path: str | Path) -> str:
    return (
        f"{out} was prepared from other files than now, or they were changed since ({path}); "
        "give another folder, or delete this one to have them prepared again"
    )


def _task_data(folder: Path) -> TaskData:
    data = open_data(folder)
    if not isinstance(data, TaskData):
        raise ValueError(
            f"{folder} holds prepared {data.records} and no examples of a task; give another folder"
        )
    return data
