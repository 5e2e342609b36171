"""A folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error


@contextmanager
def atomic_folder(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends without an error.

    After an error the new folder is deleted, and what stood at `folder` still stands there.

    Args:
        folder: the place.
        check: refuses a place that must not be written to; called before and after the block.

    Raises:
        OSError: the disk is full.
    """
    folder = folder.resolve()  # replace what a link points to, not the link; and "." has a name
    check(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    suffix = f"{os.getpid()}-{secrets.token_hex(4)}"
    new = folder.parent / f".{folder.name}.unfinished-{suffix}"
    new.mkdir()
    try:
        yield new
        check(folder)  # somebody else may have been faster
        _swap(folder, new, folder.parent / f".{folder.name}.replaced-{suffix}")
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise OSError(
                error.errno,
                f"no space is left to write {folder}, so nothing there was changed; free some "
                "space and start again",
            ) from error
        raise


def earlier_version(folder: Path) -> Path | None:
    """What stood at `folder` before a process was killed while it replaced it."""
    return next(iter(sorted(folder.parent.glob(f".{folder.name}.replaced-*"))), None)


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


def _sync(folder: Path) -> None:
    """Have the disk hold the folder's entries before others rely on them."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
