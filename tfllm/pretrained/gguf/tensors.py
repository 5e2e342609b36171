"""Read the tensors of a GGUF file a few rows at a time, and dequantize them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np

from tfllm.pretrained.gguf.header import GET_AGAIN, StoredTensor
from tfllm.pretrained.hugging_face.tensor_files import TensorInfo

_PLAIN = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def _dequantized() -> tuple[str, ...]:
    """The names of the types that the installed `gguf` package can dequantize."""
    names = []
    for kind in gguf.GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        if block > 1:
            names.append(kind.name)
    return tuple(names)


READABLE = (*_PLAIN, *_dequantized())
"""The types of weights that are supported."""


class GGUFTensors:
    """The weights of a GGUF file.

    Args:
        path: The file.
        stored: Its tensors, as in its header.
        heads: Head size of the tensors whose rows are stored in pairs for llama.cpp's rotation: row
            i of a head's first half is followed by row i of its second half. They are read in the
            order of the halves.
    """

    readable = READABLE

    def __init__(
        self, path: Path, stored: Mapping[str, StoredTensor], heads: Mapping[str, int]
    ) -> None:
        self.tensors = {
            name: TensorInfo(path, tensor.dtype, tensor.shape) for name, tensor in stored.items()
        }
        self._stored = stored
        self._heads = heads

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Read rows `begin` to `end` of a tensor: float32, or as they are stored.

        Raises:
            ValueError: If its type is not supported.
        """
        info = self.tensors[name]
        if info.dtype not in READABLE:
            raise ValueError(
                f"{info.file}: {name} must be one of {', '.join(READABLE)}; received {info.dtype}"
            )
        end = self.tensors[name].shape[0] if end is None else end
        if name not in self._heads:
            return self._rows(name, begin, end)
        size = self._heads[name]
        first = begin // size * size
        rows = self._rows(name, first, -(-end // size) * size)
        heads = rows.reshape(-1, size // 2, 2, *rows.shape[1:])
        return np.swapaxes(heads, 1, 2).reshape(rows.shape)[begin - first : end - first]

    def _rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read rows in the order of the file."""
        tensor = self._stored[name]
        if len(tensor.shape) == 1:  # one row of the file, however many numbers
            return self._block(name, 0, 1).reshape(-1)[begin:end]
        return self._block(name, begin, end).reshape(end - begin, *tensor.shape[1:])

    def _block(self, name: str, begin: int, end: int) -> np.ndarray:
        path, tensor = self.tensors[name].file, self._stored[name]
        row_bytes = tensor.num_bytes // (tensor.shape[0] if len(tensor.shape) > 1 else 1)
        # Read rather than mapped: the pages of a mapped file count as memory of the process.
        data = np.empty(row_bytes * (end - begin), np.uint8)
        with open(path, "rb") as file:
            file.seek(tensor.offset + row_bytes * begin)
            if file.readinto(data.data) != data.size:
                raise ValueError(f"{path} became shorter while it was read; {GET_AGAIN}")
        if tensor.dtype in _PLAIN:
            return data.view(_PLAIN[tensor.dtype])
        rows = data.reshape(end - begin, row_bytes)
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[tensor.dtype])
