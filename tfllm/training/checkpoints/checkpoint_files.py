"""The two files of a checkpoint, written so that any byte that changes later is noticed.

`state.safetensors` holds the arrays; `progress.json` holds what is said of the run, the size and
the SHA-256 of the arrays' file, and the SHA-256 of itself.
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
"""What a damaged disk or a lost file says; other errors, such as a lack of rights, pass."""
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP}
"""Of a folder on a network file system that does this by itself or not at all."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit."""


def write_checkpoint(folder: Path, state: dict[str, np.ndarray], progress: dict[str, Any]) -> None:
    """Fill an empty folder, and wait until the disk has all of it."""
    write_progress(folder, progress, _write_state(folder / STATE, state))


def write_progress(folder: Path, progress: dict[str, Any], state: dict[str, Any]) -> None:
    """Write progress.json in one go: it is as it was, or it is new.

    Args:
        folder: of the checkpoint.
        progress: what is said of the run.
        state: "bytes" and "sha256" of the arrays' file.
    """
    values = {**progress, "state": state}
    text = json.dumps({**values, "sha256": _signature(values)}, indent=1, allow_nan=False)
    beside = folder / f".{PROGRESS}"
    try:
        with open(beside, "wb") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / PROGRESS)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(folder)


def read_progress(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said of the run, and of the arrays' file.

    Raises:
        CheckpointError: the file is damaged or not there.
        OSError: it cannot be read for another reason.
    """
    path = folder / PROGRESS
    with _reading(path):
        values = json.loads(path.read_bytes())
        signature = values.pop("sha256")
        if signature != _signature(values):
            raise ValueError("it does not have the checksum that stands in it")
        return values, values.pop("state")


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """The arrays, once every byte is known to be that which was written.

    Raises:
        CheckpointError: a file is damaged or not there.
        OSError: a file cannot be read for another reason.
    """
    verify(folder)
    with _reading(folder / STATE):
        return load_file(folder / STATE)


def verify(folder: Path) -> None:
    """Read both files whole and hold them against their checksums.

    Raises:
        CheckpointError: a file is damaged or not there.
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
    """Have the disk hold a folder's entries before others rely on them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a folder that is in nobody's way if it stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_state(path: Path, state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write arrays in the format of safetensors; returns the file's size and checksum.

    The library would have the file read again for its checksum, which would then vouch for
    whatever the disk has made of it, and it reports a full disk as a fault of the format.
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
    """The bytes of the file: the header's length, the header, the arrays one after the other."""
    header, end = {}, 0
    for name, value in state.items():
        start, end = end, end + value.nbytes
        header[name] = {
            "dtype": _DTYPES[value.dtype.name],
            "shape": value.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
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
    """Name a file that turns out to be damaged or missing."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            raise
        raise CheckpointError(f"{path} is damaged or cut short ({error})") from error
