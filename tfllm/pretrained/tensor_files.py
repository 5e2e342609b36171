"""The tensors of a model folder: `model.safetensors`, or shards of it with an index.

Reading goes through the `safetensors` library. Writing is our own, in the same format (the length
of a JSON header, the header, the tensors' bytes), since the library wants all tensors in memory at
once and this wants one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""the dtypes that weights may have in a file"""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorInfo(NamedTuple):
    """Where a tensor stands and what it is: its file, its dtype's name there, its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a model folder, read one at a time.

    Args:
        folder: holds `model.safetensors`, or `model.safetensors.index.json` and its shards.

    Raises:
        FileNotFoundError: neither is there, or a shard is missing.
        ValueError: a file is damaged or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        for path in _files(folder):
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    part = file.get_slice(name)
                    self.tensors[name] = TensorInfo(path, part.get_dtype(), tuple(part.get_shape()))

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, in the dtype that it has in the file."""
        # Opened anew each time: pages of an open memory-mapped file count as the process's memory.
        with _opened(self.tensors[name].file) as file:
            return file.get_tensor(name)


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if (folder / ONE_FILE).exists():
        return [folder / ONE_FILE]
    if not index.exists():
        pickled = sorted(folder.glob("*.bin"))
        raise FileNotFoundError(
            f"{folder} holds no weights: there is neither {ONE_FILE} nor {INDEX}"
            + (
                f". {pickled[0].name} is a pickle, which can run code as it is read; have "
                "transformers write the model once more with save_pretrained"
                if pickled
                else ""
            )
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{index} is damaged or cut short; {_GET_AGAIN}") from None
    paths = [folder / Path(name).name for name in names]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; {_GET_AGAIN}")
    return paths


_GET_AGAIN = "copy the folder again from where it came, or take the last good checkpoint"


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or cut short ({path.stat().st_size:,} bytes; {error}); {_GET_AGAIN}"
        ) from None


class NewTensor(NamedTuple):
    """A tensor to write: its name, shape, and what gives its values when their turn comes."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def write_tensors(
    folder: Path, tensors: Iterable[NewTensor], dtype: np.dtype, max_shard_bytes: int
) -> int:
    """Write `model.safetensors`, or shards and their index, one tensor in memory at a time.

    Args:
        folder: where; it must exist.
        tensors: in any order; they stand in the order of their names.
        dtype: float32 or bfloat16.
        max_shard_bytes: no file has more bytes of tensors than this, but for a single tensor.

    Returns:
        the bytes of all tensors together.
    """
    shards: list[list[NewTensor]] = [[]]
    room = max_shard_bytes
    for tensor in sorted(tensors, key=lambda t: t.name):
        size = _num_bytes(tensor, dtype)
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(tensor)
        room -= size
    total = sum(_num_bytes(tensor, dtype) for shard in shards for tensor in shard)
    if len(shards) == 1:
        _write_file(folder / ONE_FILE, shards[0], dtype)
        return total
    files: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, dtype)
        files |= dict.fromkeys((tensor.name for tensor in shard), name)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    return total


def _num_bytes(tensor: NewTensor, dtype: np.dtype) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize


def _write_file(path: Path, tensors: list[NewTensor], dtype: np.dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + _num_bytes(tensor, dtype)
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.values(), dtype=dtype)
            assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
            file.write(values.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a JSON file, NumPy's scalars as numbers, and have the disk hold it."""
    text = json.dumps(values, indent=2, ensure_ascii=False, default=lambda value: value.item())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
