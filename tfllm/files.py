"""Write files and folders atomically, and read JSON with errors that name the file."""

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
    """Read a JSON file.

    Args:
        path: Path of the file.
        advice: What to do about a damaged file, for the error. Defaults to none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else error
        rest = f"; {advice}" if advice else ""
        raise ValueError(f"{path} is damaged or cut short: {what}{rest}") from None


def read_json_object(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read the object in a JSON file.

    Args:
        path: Path of the file.
        required: Whether the file must exist; if not, the result for a missing file is empty.
            Defaults to False.

    Raises:
        FileNotFoundError: If there is no such file, and it is required.
        ValueError: If it is not valid JSON, or not an object.
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
    """Read a JSON file; None if it cannot be read, which is reported elsewhere."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file to write, which replaces `path` when the block ends without an error.

    A reader always sees either the old file or the new one, even after a power failure. Everybody
    may read it, since a server may run as another user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically; text is encoded as UTF-8."""
    with atomic_file(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_folder(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary folder, which replaces `folder` when the block ends without an error.

    After an error the temporary folder is deleted, and `folder` is unchanged.

    Args:
        folder: Folder to replace.
        check: Raises an error if the folder must not be written to; called before and after the
            block.

    Raises:
        OSError: If the disk is full.
    """
    folder = folder.resolve()  # replace the target of a link, not the link; and give "." a name
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
                f"no space is left to write {folder}, so it was not changed; free some space and "
                "start again",
            ) from error
        raise


def earlier_version(folder: Path) -> Path | None:
    """The previous version of `folder`, if a process was killed while replacing it."""
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
    """Sync the folder's entries to disk before others rely on them."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
