"""Open data, and determine the task from the run, the data or the records if it is not named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfllm.config import ConfigError, PrepareConfig
from tfllm.data import PreparedData, open_data
from tfllm.data.reading.record_kinds import Kind, kind_of_files
from tfllm.data.reading.sources import find_files
from tfllm.data.shards.prepared_data import MANIFEST
from tfllm.path_kinds import instead_of
from tfllm.tasks.registry import task_named
from tfllm.tasks.task import Task

_TASK_OF_KIND: dict[Kind, str] = {
    "text": "language_modeling",
    "examples": "instruction",
    "preference": "preference",
}


def opened_data(data: Any) -> Any:
    """Open `data` if it is a folder of prepared data; files of records are returned unchanged.

    Raises:
        ValueError: `data` is a folder of another kind, such as a run, or is damaged.
    """
    if not isinstance(data, str | Path):
        return data
    if (Path(data) / MANIFEST).is_file():
        return open_data(data)
    if message := instead_of(data, "data"):
        raise ValueError(message)
    return data


def task_of_records(
    source: Any, config: PrepareConfig | None = None, *, exclude: Sequence[str | Path] = ()
) -> Task:
    """The language-model task that files of records are for, according to their keys.

    Args:
        source: files, folders and globs.
        config: settings of the preparation.
        exclude: folders that are not searched.

    Raises:
        FileNotFoundError: there are no such files.
        ConfigError: the files contain records of several kinds.
    """
    config = config or PrepareConfig()
    found = [
        file
        for inputs in (source, config.validation)
        if inputs
        for file in find_files(inputs, exclude=exclude, encoding=config.encoding)
    ]
    return task_named(_TASK_OF_KIND[kind_of_files(found, config)])


def task_of_run(
    name: str | None, data: Any, config: PrepareConfig | None, run: Mapping[str, Any], where: Path
) -> Task:
    """The task of a run.

    Args:
        name: name of the requested task, or None.
        data: prepared data, or files of records.
        config: settings of the preparation of files.
        run: content of run.json; empty for a new run.
        where: folder of the run.

    Raises:
        ConfigError: the run or the data are for another task than the requested one.
        ValueError: there is no task of that name.
    """
    found = [(data.task, data.folder)] if isinstance(data, PreparedData) else []
    if "task" in run:
        found.insert(0, (run["task"]["name"], where))
    name = name or (found[0][0] if found else None)
    for other, place in found:
        if other != name:
            raise ConfigError(f"{place} is for the task {other}; received task={name!r}")
    if name is None:
        return task_of_records(data, config, exclude=[where])
    return task_named(name)
