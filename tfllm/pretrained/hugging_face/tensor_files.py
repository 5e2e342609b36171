"""Read and write the tensors of a model folder: `model.safetensors`, or shards with an index.

The `safetensors` library checks a file. Reading and writing are implemented here, in its format
(the length of a JSON header, the header, the tensors' bytes): the library maps files into memory
and needs all tensors at once, while this reads a few rows at a time.
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

from tfllm.files import read_json

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes of weights that are supported."""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorInfo(NamedTuple):
    """The file of a tensor, the name of its dtype there, and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


class TensorFiles:
    """The tensors of a model folder, read a few rows at a time.

    Args:
        folder: Folder with `model.safetensors`, or `model.safetensors.index.json` and its shards.
        one_file: Name of the single file. Defaults to `model.safetensors`.

    Raises:
        FileNotFoundError: If neither exists, or a shard is missing.
        ValueError: If a file is damaged or cut short, or the index and the shards contradict each
            other.
    """

    readable = tuple(DTYPES)

    def __init__(self, folder: Path, *, one_file: str = ONE_FILE) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, int] = {}
        files, weight_map = _files(folder, one_file)
        for path in files:
            for name, (info, place) in _header(path).items():
                if name in self.tensors:
                    raise ValueError(
                        f"{name} must be in one file only; it is in "
                        f"{self.tensors[name].file} and {path}"
                    )
                self.tensors[name], self._places[name] = info, place
        if weight_map is not None:
            _check_index(folder / INDEX, weight_map, self.tensors)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Read rows `begin` to `end` (default: all) of a tensor, in the dtype that it has in the
        file.

        Raises:
            ValueError: If its dtype is not supported.
        """
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise ValueError(
                f"{info.file}: {name} must be one of {', '.join(DTYPES)}; received {info.dtype}"
            )
        dtype = DTYPES[info.dtype]
        shape = info.shape
        if shape:
            end = shape[0] if end is None else end
            shape = (end - begin, *shape[1:])
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        values = np.empty(shape, dtype)
        # Read rather than mapped: the pages of a mapped file count as memory of the process.
        with open(info.file, "rb") as file:
            file.seek(self._places[name] + begin * row_bytes)
            if file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
                raise ValueError(f"{info.file} became shorter while it was read; {_GET_AGAIN}")
        return values


def _files(folder: Path, one_file: str) -> tuple[list[Path], dict[str, str] | None]:
    """The files with the weights, and the file of each tensor in the index, if there is one."""
    index = folder / INDEX
    if (folder / one_file).exists():
        return [folder / one_file], None
    if one_file != ONE_FILE or not index.exists():
        wanted = f"neither {ONE_FILE} nor {INDEX}" if one_file == ONE_FILE else f"no {one_file}"
        raise FileNotFoundError(
            f"{folder} contains no weights: there is {wanted}" + other_weights(folder)
        )
    try:
        weight_map = read_json(index)["weight_map"]
        names = sorted(set(weight_map.values()))
        damaged = not all(isinstance(name, str) for name in names)
    except (ValueError, KeyError, AttributeError, TypeError):
        damaged = True
    if damaged:
        raise ValueError(f"{index} is damaged or cut short; {_GET_AGAIN}")
    outside = [name for name in names if name != Path(name).name or name == ".."]
    if outside:
        raise ValueError(
            f"{index} must name files in its own folder; received {outside[0]!r}. The folder may "
            "be designed to have other files read; do not use it"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; {_GET_AGAIN}")
    return [folder / name for name in names], weight_map


_GET_AGAIN = "copy the folder again from its source, or use the last good checkpoint"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_OTHER_FORMATS = (".h5", ".msgpack", ".onnx", ".keras")


def other_weights(folder: Path) -> str:
    """What to do with weights in other formats that the folder contains."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())

    def first(*endings: str) -> str | None:
        return next((name for name in names if name.lower().endswith(endings)), None)

    again = "have transformers save the model again with save_pretrained"
    if gguf := first(".gguf"):
        return f". {gguf} is a complete model; give its path: {folder / gguf}"
    if other := first(".safetensors"):
        return f". {other} has another name; is it an adapter, or a shard without its index?"
    if pickle := first(*_PICKLES):
        return f". {pickle} is a pickle, which can run code when it is loaded; {again}"
    if other := first(*_OTHER_FORMATS):
        return f". {other} is in a format that is not supported; {again}"
    return ""


def _header(path: Path) -> dict[str, tuple[TensorInfo, int]]:
    """Each tensor of a file and the position of its first byte.

    The library checks the header against the file: its length, that the tensors follow one
    another, and that they fill the file.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or cut short ({path.stat().st_size:,} bytes; {error}); {_GET_AGAIN}"
        ) from None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return {
        name: (
            TensorInfo(path, entry["dtype"], tuple(entry["shape"])),
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in entries.items()
    }


def _check_index(
    index: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> None:
    """Check that the index agrees with the shards."""
    for name, file in weight_map.items():
        found = tensors[name].file.name if name in tensors else "no file"
        if found != file:
            raise ValueError(
                f"{index} says that {name} is in {file}; it is in {found}. {_GET_AGAIN}"
            )
    extra = sorted(tensors.keys() - weight_map.keys())
    if extra:
        raise ValueError(
            f"{tensors[extra[0]].file} contains {extra[0]}, which {index.name} does not name; "
            f"{_GET_AGAIN}"
        )


class NewTensor(NamedTuple):
    """A tensor to write: its name, its shape, and a function that returns its values when
    needed."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def write_tensors(
    folder: Path, tensors: Iterable[NewTensor], dtype: np.dtype, max_shard_bytes: int
) -> int:
    """Write `model.safetensors`, or shards and their index, one tensor in memory at a time.

    Args:
        folder: Folder to write to, which must exist.
        tensors: Tensors in any order; they are written in the order of their names.
        dtype: float32 or bfloat16.
        max_shard_bytes: Maximum number of bytes of tensors in a file, unless a single one is
            larger.

    Returns:
        The number of bytes of all tensors.
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
        write_file(folder / ONE_FILE, shards[0], dtype)
        return total
    files: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard, dtype)
        files |= dict.fromkeys((tensor.name for tensor in shard), name)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    return total


def _num_bytes(tensor: NewTensor, dtype: np.dtype) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize


def write_file(path: Path, tensors: list[NewTensor], dtype: np.dtype) -> None:
    """Write one file in the format of safetensors, and sync it to disk."""
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
    """Write a JSON file, with NumPy's scalars as numbers, and sync it to disk."""
    text = json.dumps(values, indent=2, ensure_ascii=False, default=lambda value: value.item())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
