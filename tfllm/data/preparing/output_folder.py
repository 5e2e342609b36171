"""A folder that appears whole or not at all, and replaces only one of its own kind."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from tfllm.data.shards.prepared_data import FORMAT, MANIFEST, shards_of
from tfllm.files import atomic_folder, read_json


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a place that must not be written to, before any work is done.

    Raises:
        FileExistsError: `out` is there, and is neither an empty folder nor, with `overwrite`, a
            folder of prepared text and nothing else.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder that does not exist yet")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return
    ours = _prepared_files(out)
    if not ours:
        raise FileExistsError(
            f"{out} holds files that are not prepared text ({', '.join(names[:3])}, ...) and is "
            "never overwritten; name a folder that does not exist yet"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} holds prepared text already; name another folder, or set overwrite to have it "
            "replaced"
        )
    foreign = sorted(set(names) - ours)
    if foreign:
        raise FileExistsError(
            f"{out} holds files besides the prepared text ({', '.join(foreign[:3])}), which "
            "overwriting would lose; move them away, or name another folder"
        )


def written_beside(out: Path, overwrite: bool) -> AbstractContextManager[Path]:
    """A new folder that takes the place of `out` when the block ends without an error."""
    return atomic_folder(out, lambda place: check_output(place, overwrite))


def _prepared_files(folder: Path) -> set[str]:
    """The names of the files that `prepare` wrote into a folder; none if it did not write it."""
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest["format"] != FORMAT:
            return set()
        shards = [shard["file"] for shard in shards_of(manifest)]
        records = manifest.get("record_files", {})
        return {MANIFEST, *manifest["tokenizer_files"], *records, *shards}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
