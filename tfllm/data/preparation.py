"""Prepare the files of a task into a folder of data, or open the folder if it exists already."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tfllm.config import PrepareConfig
from tfllm.data.preparing.output_folder import check_output, written_beside
from tfllm.data.preparing.preparation_steps import PreparedTask
from tfllm.data.shards.prepared_data import (
    FORMAT,
    FORMAT_VERSIONS,
    MANIFEST,
    PreparedData,
    open_data,
)
from tfllm.data.shards.shard_files import file_sha256
from tfllm.version import __version__


def prepare_data(
    task: PreparedTask,
    source: Any,
    out: str | Path,
    config: PrepareConfig,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PreparedData:
    """Prepare the records of a task into a folder of shards.

    The folder is written under a temporary name, and renamed once it is complete. Its content does
    not depend on the number of processes.

    Args:
        task: task of the records.
        source: files, as the task reads them.
        out: folder to create.
        config: settings, with all defaults resolved (`Task.prepare_config`).
        overwrite: whether to replace an existing folder, which must be one of prepared data.
            Defaults to False.
        show_progress: whether to show progress bars on standard error. Defaults to True.

    Returns:
        The prepared data.

    Raises:
        FileExistsError: `out` exists already.
        OSError: a file cannot be read or written.
        ValueError: a record cannot be used, or there is nothing to learn.
    """
    out = Path(out)
    check_output(out, overwrite)
    bar = functools.partial(tqdm, disable=not show_progress, dynamic_ncols=True)
    work = task.preparation(source, config, exclude=[out], bar=bar)
    work.survey()
    with written_beside(out, overwrite) as folder:
        tokenizer = work.tokenizer()
        tokenizer.save(folder)
        tokenizer_files = sorted(path.name for path in folder.iterdir() if path.is_file())
        written = work.write(folder)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSIONS[work.layout],
            "tfllm_version": __version__,
            "task": {"name": task.name},
            "vocab_size": tokenizer.vocab_size,
            "byte_order": "little",
            **written,
            "tokenizer_files": {name: file_sha256(folder / name) for name in tokenizer_files},
            "settings": _settings(config),
            "notes": work.all_notes(),
        }
        # In ASCII, since the name of a file need not be valid UTF-8.
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return open_data(out)


def prepared(
    task: PreparedTask,
    source: Any,
    into: str | Path,
    config: PrepareConfig,
    *,
    same_tokenizer: bool = True,
    show_progress: bool = True,
) -> PreparedData:
    """Prepare the records of a task into the folder `into`, or open it if it exists already.

    An existing folder must have been prepared from the same files with the same settings; if the
    files do not exist any more, the folder is opened without this check. If several workers share
    the folder, one of them should call this before the others.

    Args:
        task: task of the records.
        source: files, as the task reads them.
        into: folder to create, such as one within a run's.
        config: settings, with all defaults resolved (`Task.prepare_config`).
        same_tokenizer: whether the path of the tokenizer must be the same. False is for callers
            that compare the tokenizer itself with that of the data. Defaults to True.
        show_progress: whether to show progress bars on standard error. Defaults to True.

    Returns:
        The prepared data.

    Raises:
        ValueError: `into` was prepared from other files or with other settings; or as in
            `prepare_data`.
        FileNotFoundError: the files do not exist.
        OSError: a file cannot be read or written.
    """
    into = Path(into)
    if not (into / MANIFEST).is_file():
        return prepare_data(task, source, into, config, show_progress=show_progress)
    data = open_data(into)
    if data.task != task.name:
        raise ValueError(
            f"{into} was prepared for the task {data.task}; received {task.name}; give the same "
            "task, or another folder"
        )
    made_with = _settings_of(data.manifest)
    defaults = _settings(PrepareConfig())  # for settings that an older tfllm did not have
    for name, value in _settings(config).items():
        made = made_with.get(name, defaults[name])
        if made != value and (same_tokenizer or name != "tokenizer"):
            raise ValueError(
                f"{into} was prepared with {name} = {made!r}; received {value!r}; give the same "
                "value, or another folder"
            )
    try:
        files = task.files(source, config, exclude=[into])
    except FileNotFoundError:
        return data
    made_of = {entry["path"]: entry for entry in data.manifest["sources"]}
    for file in files:
        entry = made_of.pop(file.path.as_posix(), None)
        if entry is None or entry["num_bytes"] != file.num_bytes:
            raise ValueError(_other_files(into, file.path))
        if "sha256" in entry and entry["sha256"] != file_sha256(file.path):
            raise ValueError(_other_files(into, file.path))
    if made_of:
        raise ValueError(_other_files(into, next(iter(made_of))))
    return data


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings for the manifest: without the number of processes, which has no effect."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: value for name, value in values.items() if name != "num_processes"}


def _settings_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The settings in a manifest, with the names and forms of older versions converted."""
    found = dict(manifest["settings"])
    if "base" in found:
        found["tokenizer"] = found.pop("base")
    if isinstance(found.get("columns"), dict):
        found["columns"] = [f"{name}={key}" for name, key in found["columns"].items()]
    if "validation" in found:
        found["validation"] = list(PrepareConfig(validation=found["validation"]).validation)
    return found


def _other_files(into: Path, path: str | Path) -> str:
    return (
        f"{into} was prepared from other files, or they were changed since ({path}); give another "
        "folder, or delete this one to prepare the files again"
    )
