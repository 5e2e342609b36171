"""A model folder that appears whole or not at all, and replaces only one that tfllm wrote."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = "tfllm.json"
"""the file by which a folder is known to be written by tfllm"""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_WRITTEN = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json|" + "|".join(map(re.escape, (OURS, *TOKENIZER_FILES)))
)


def check_replaceable(folder: Path, *, with_tokenizer: bool) -> None:
    """Refuse a place that must not be written to, before any work is done.

    Args:
        folder: where a model is to be saved.
        with_tokenizer: whether a tokenizer is saved with it.

    Raises:
        FileExistsError: `folder` is there, and is neither empty nor a model folder that tfllm
            wrote with nothing besides; or it holds a tokenizer that would be lost.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder that does not exist yet")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if not _WRITTEN.fullmatch(name)]
    if names and (OURS not in names or foreign):
        held = ", ".join((foreign or names)[:3])
        raise FileExistsError(
            f"{folder} holds files that tfllm did not write ({held}), which saving would lose; "
            "name another folder, or move them away"
        )
    if "tokenizer.json" in names and not with_tokenizer:
        raise FileExistsError(
            f"{folder} holds a tokenizer, and none is given to take its place; "
            "give tokenizer=..., or name another folder"
        )


@contextmanager
def replaced(folder: Path, *, with_tokenizer: bool) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends without an error.

    After an error the new folder is deleted, and what stood at `folder` still stands there.

    Raises:
        OSError: the disk is full.
        FileExistsError: as `check_replaceable`.
    """
    folder = folder.resolve()  # through links, and "." has a name of its own
    check_replaceable(folder, with_tokenizer=with_tokenizer)
    folder.parent.mkdir(parents=True, exist_ok=True)
    suffix = f"{os.getpid()}-{secrets.token_hex(4)}"
    new = folder.parent / f".{folder.name}.unfinished-{suffix}"
    new.mkdir()
    try:
        yield new
        check_replaceable(folder, with_tokenizer=with_tokenizer)  # the disk may have changed
        _swap(folder, new, folder.parent / f".{folder.name}.replaced-{suffix}")
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space is left to write {folder}, so nothing there was changed; "
                "free some space and save again",
            ) from error
        raise


def _swap(folder: Path, new: Path, old: Path) -> None:
    _sync(new)
    if folder.is_dir():
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)
    _sync(folder.parent)


def earlier_version(folder: Path) -> Path | None:
    """What stood at `folder` before a save that was killed between its two renames."""
    return next(iter(sorted(folder.parent.glob(f".{folder.name}.replaced-*"))), None)


def _sync(folder: Path) -> None:
    """Have the disk hold the folder's entries before others rely on them."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
