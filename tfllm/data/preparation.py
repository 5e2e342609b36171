"""From the files of a task to a folder of prepared data, and back to it when it is there."""

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
    """Make a folder of shards from the records of a task.

    The folder is written beside its place and renamed when it is whole. What is written does not
    depend on the number of processes.

    Args:
        task: whose records they are.
        source: files, as the task reads them.
        out: the folder to make.
        config: settings, with nothing left open (`Task.prepare_config`).
        overwrite: replace the folder if there is one (only one that was prepared).
        show_progress: progress bars on standard error.

    Raises:
        FileExistsError: `out` is there already.
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
        # In ASCII: the name of a file need not be UTF-8.
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
    """What becomes of the records of a task, prepared into the folder `into` once.

    Later calls open the folder, after a check that it was made from the same files with the same
    settings. Where the files are gone by then, what was made of them is good enough. Of several
    workers that share the folder, one should call this before the others.

    Args:
        task: whose records they are.
        source: files, as the task reads them.
        into: the folder to make, such as one within a run's.
        config: settings, with nothing left open (`Task.prepare_config`).
        same_tokenizer: False: the path of the tokenizer may be another now, since whoever trains
            holds the tokenizer itself against the data's.
        show_progress: progress bars on standard error.

    Raises:
        ValueError: `into` was made of other files or with other settings; or as `prepare_data`.
        FileNotFoundError: there are no such files.
        OSError: a file cannot be read or written.
    """
    into = Path(into)
    if not (into / MANIFEST).is_file():
        return prepare_data(task, source, into, config, show_progress=show_progress)
    data = open_data(into)
    if data.task != task.name:
        raise ValueError(
            f"{into} was prepared for the task {data.task}; received {task.name}; name the same, "
            "or give another folder"
        )
    made_with = _settings_of(data.manifest)
    defaults = _settings(PrepareConfig())  # of settings that an older tfllm did not have
    for name, value in _settings(config).items():
        made = made_with.get(name, defaults[name])
        if made != value and (same_tokenizer or name != "tokenizer"):
            raise ValueError(
                f"{into} was prepared with {name} = {made!r}; received {value!r}; say the same, "
                "or give another folder"
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
    """As the manifest has them: the number of processes changes nothing in the folder."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: value for name, value in values.items() if name != "num_processes"}


def _settings_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The settings in a manifest, also in one of the first version, which called some otherwise."""
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
        f"{into} was prepared from other files than now, or they were changed since ({path}); "
        "give another folder, or delete this one to have them prepared again"
    )
