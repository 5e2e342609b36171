"""The two files of a checkpoint, with checksums that detect any later change.

`state.safetensors` holds the arrays; `progress.json` holds the progress of the run, the size and
the SHA-256 of the arrays' file, and its own SHA-256.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

STATE = "state.safetensors"
PROGRESS = "progress.json"

_BLOCK = 1 << 24
_DTYPES = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"float{n}": f"F{n}" for n in (16, 32, 64)},
    **{f"int{n}": f"I{n}" for n in (8, 16, 32, 64)},
    **{f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)},
}
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EBADMSG}
"""Error numbers of a damaged disk or a lost file; others, such as EACCES, are not damage."""
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP}
"""Error numbers of network file systems that do not support fsync of a folder."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model."""


def write_checkpoint(folder: Path, state: dict[str, np.ndarray], progress: dict[str, Any]) -> None:
    """Write a checkpoint into an empty folder, and wait until all of it is on disk."""
    write_progress(folder, progress, _write_state(folder / STATE, state))


def write_progress(folder: Path, progress: dict[str, Any], state: dict[str, Any]) -> None:
    """Write progress.json atomically: the file is either unchanged or complete.

    Args:
        folder: folder of the checkpoint.
        progress: progress of the run.
        state: "bytes" and "sha256" of the arrays' file.
    """
    values = {**progress, "state": state}
    text = json.dumps({**values, "sha256": _signature(values)}, indent=1, allow_nan=False)
    temporary = folder / f".{PROGRESS}"
    try:
        with open(temporary, "wb") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / PROGRESS)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(folder)


def read_progress(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the progress of the run, and the size and checksum of the arrays' file.

    Raises:
        CheckpointError: the file is damaged or missing.
        OSError: it cannot be read for another reason.
    """
    path = folder / PROGRESS
    with _reading(path):
        values = json.loads(path.read_bytes())
        signature = values.pop("sha256")
        if signature != _signature(values):
            raise ValueError("its content does not match the checksum in it")
        return values, values.pop("state")


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays after verifying the checksums of both files.

    Raises:
        CheckpointError: a file is damaged or missing.
        OSError: a file cannot be read for another reason.
    """
    verify(folder)
    with _reading(folder / STATE):
        return load_file(folder / STATE)


def verify(folder: Path) -> None:
    """Read both files and compare them with their checksums.

    Raises:
        CheckpointError: a file is damaged or missing.
        OSError: a file cannot be read for another reason.
    """
    _, written = read_progress(folder)
    digest, size = hashlib.sha256(), 0
    with _reading(folder / STATE):
        with open(folder / STATE, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
        for what, rule, received in (
            ("size", written["bytes"], size),
            ("SHA-256", written["sha256"], digest.hexdigest()),
        ):
            if rule != received:
                raise ValueError(f"its {what} must be {rule}; received {received}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk (fsync)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a folder; errors while deleting a folder are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_state(path: Path, state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write arrays in the safetensors format; returns the file's size and checksum.

    With the library, the checksum would have to be computed from the file as read back, which may
    be damaged already; and the library reports a full disk as a format error.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for block in _blocks(state):
            digest.update(block)
            file.write(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _blocks(state: dict[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of the file: the length of the header, the header, and the arrays."""
    header, end = {}, 0
    for name, value in state.items():
        start, end = end, end + value.nbytes
        header[name] = {
            "dtype": _DTYPES[value.dtype.name],
            "shape": value.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    yield len(text).to_bytes(8, "little") + text
    for value in state.values():
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        for start in range(0, len(raw), _BLOCK):
            yield raw[start : start + _BLOCK].data


def _signature(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of a damaged or missing file into a CheckpointError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            raise
        raise CheckpointError(f"{path} is damaged or cut short ({error})") from error
