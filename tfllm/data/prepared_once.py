"""Data for a run, from a folder that is prepared already or from files that are not yet."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfllm.config import PrepareConfig
from tfllm.data.preparation import prepare
from tfllm.data.reading.sources import find_files
from tfllm.data.shards.prepared_data import MANIFEST, PreparedData, open_data
from tfllm.data.shards.shard_files import file_sha256


def prepared(
    source: str | Path | Sequence[str | Path],
    into: str | Path,
    config: PrepareConfig | None = None,
    *,
    show_progress: bool = True,
) -> PreparedData:
    """`source` itself, if it is a folder of prepared data; else what becomes of its files.

    They are prepared into the folder `into` once: later calls open it, after a check that it was
    made from the same files with the same settings. Where the files are gone by then, what was
    made of them is good enough. Of several workers that share the folder, one should call this
    before the others.

    Args:
        source: a folder that `prepare` wrote, or files, folders and globs that it reads.
        into: the folder to make, such as one within a run's.
        config: settings of `prepare`.
        show_progress: a progress bar on standard error.

    Raises:
        ValueError: `into` was made of other files or with other settings; or as `prepare`.
        FileNotFoundError: there are no such files.
        OSError: a file cannot be read or written.
    """
    config = config or PrepareConfig()
    into = Path(into)
    if isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file():
        return open_data(source)
    if not (into / MANIFEST).is_file():
        return prepare(source, into, config, show_progress=show_progress)
    data = open_data(into)
    defaults = _settings(PrepareConfig())  # of settings that an older tfllm did not have
    for name, value in _settings(config).items():
        made = data.manifest["settings"].get(name, defaults[name])
        if made != value:
            raise ValueError(
                f"{into} was prepared with {name} = {made!r}; received {value!r}; say the same, "
                "or give another folder"
            )
    try:
        files = find_files(source, exclude=[into])
        files += find_files(config.validation, exclude=[into]) if config.validation else []
    except FileNotFoundError:
        return data
    made_of = {entry["path"]: entry for entry in data.manifest["sources"]}
    for file in files:
        entry = made_of.pop(file.path.as_posix(), None)
        if entry is None and file.format == "table" and file.of_folder:
            continue  # one without a known column, which was left out
        if entry is None or entry["num_bytes"] != file.num_bytes:
            raise ValueError(_other_files(into, file.path))
        if "sha256" in entry and entry["sha256"] != file_sha256(file.path):
            raise ValueError(_other_files(into, file.path))
    if made_of:
        raise ValueError(_other_files(into, next(iter(made_of))))
    return data


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """As the manifest has them."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    return {name: value for name, value in values.items() if name != "num_processes"}


def _other_files(into: Path, path: str | Path) -> str:
    return (
        f"{into} was prepared from other files than now, or they were changed since ({path}); "
        "give another folder, or delete this one to have them prepared again"
    )
