"""Files and folders that appear whole or not at all, and JSON that is read or refused by name."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error


def read_json(path: Path, advice: str = "") -> Any:
    """What a JSON file says.

    Args:
        path: of the file.
        advice: what to do about a damaged one, for the error.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        rest = f"; {advice}" if advice else ""
        raise ValueError(f"{path} is damaged or cut short: {what}{rest}") from None


def read_json_object(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file and it is not required.

    Raises:
        FileNotFoundError: there is none, and it is required.
        ValueError: it is not valid JSON, or no object.
    """
    try:
        values = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; received {type(values).__name__}")
    return values


def readable_json(path: Path) -> Any:
    """What a JSON file says; None where it cannot be read, of which others speak."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write beside `path`, which takes its place when the block ends without an error.

    A reader, and a disk that loses its power, sees the old file or the new one. Everybody may read
    it, as the server may run as another user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; a text is UTF-8."""
    with atomic_file(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


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
