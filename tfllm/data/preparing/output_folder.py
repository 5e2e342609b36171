"""Write an output folder atomically, and overwrite only folders of prepared data."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from tfllm.data.shards.prepared_data import FORMAT, MANIFEST, shards_of
from tfllm.files import atomic_folder, read_json


def check_output(out: Path, overwrite: bool) -> None:
    """Check that a folder may be written, before any work is done.

    Args:
        out: the folder.
        overwrite: whether it may replace prepared data.

    Raises:
        FileExistsError: `out` exists, and is neither an empty folder nor, with `overwrite`, a
            folder of prepared text and nothing else.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder that does not exist yet")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return
    ours = _prepared_files(out)
    if not ours:
        raise FileExistsError(
            f"{out} contains files that are not prepared text ({', '.join(names[:3])}, ...) and is "
            "never overwritten; give a folder that does not exist yet"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} contains prepared text already; give another folder, or set overwrite to "
            "replace it"
        )
    foreign = sorted(set(names) - ours)
    if foreign:
        raise FileExistsError(
            f"{out} contains other files besides the prepared text ({', '.join(foreign[:3])}), "
            "which would be lost by overwriting; move them away, or give another folder"
        )


def written_beside(out: Path, overwrite: bool) -> AbstractContextManager[Path]:
    """Context with a new folder that replaces `out` when the block ends without an error."""
    return atomic_folder(out, lambda place: check_output(place, overwrite))


def _prepared_files(folder: Path) -> set[str]:
    """Names of the files that `prepare` wrote into a folder; empty for other folders."""
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["format"] != FORMAT:
            return set()
        shards = [shard["file"] for shard in shards_of(manifest)]
        records = manifest.get("record_files", {})
        return {MANIFEST, *manifest["tokenizer_files"], *records, *shards}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
