"""Read the header of a GGUF file: its metadata, and the position of each tensor.

The format is that of llama.cpp (docs/gguf.md of ggml): a magic number, a version, counts, key/value
pairs, a table of tensors, and from the next aligned position on the tensors' bytes. The `gguf`
package can read it, too; here every length is checked against the file before anything is read or
allocated, since a damaged file must neither be trusted nor fill the memory.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)

GET_AGAIN = "copy the file again from its source"

_STRING, _ARRAY = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY
_NUMBERS = {
    gguf.GGUFValueType.UINT8: "<u1",
    gguf.GGUFValueType.INT8: "<i1",
    gguf.GGUFValueType.UINT16: "<u2",
    gguf.GGUFValueType.INT16: "<i2",
    gguf.GGUFValueType.UINT32: "<u4",
    gguf.GGUFValueType.INT32: "<i4",
    gguf.GGUFValueType.UINT64: "<u8",
    gguf.GGUFValueType.INT64: "<i8",
    gguf.GGUFValueType.FLOAT32: "<f4",
    gguf.GGUFValueType.FLOAT64: "<f8",
    gguf.GGUFValueType.BOOL: "?",
}
_MAX_DIMENSIONS = 4
_LEAST_PAIR, _LEAST_TENSOR = 13, 24  # bytes: an empty name and one byte; a name and no dimensions


class StoredTensor(NamedTuple):
    """A tensor of the file.

    Args:
        dtype: Name of its type, such as "F32" or "Q4_K"; "type N" for a number that the installed
            `gguf` package does not know.
        shape: Shape as in NumPy, with the length of a row last.
        offset: Position of its first byte in the file.
        num_bytes: Number of its bytes; 0 if the type is not known.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class Header(NamedTuple):
    """Everything but the tensors' bytes.

    Args:
        metadata: Numbers, texts, bools, or lists of them, by key. A float32 becomes the shortest
            decimal number that is rounded to it: 1e-05, not 9.999999747378752e-06.
        tensors: Tensors by name, in the file's order.
    """

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Raises:
        ValueError: If the file is not in that format, has an unsupported version or byte order, or
            is damaged or cut short.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if start[:4] != MAGIC:
            raise ValueError(
                f"{path} is not a GGUF file: its first bytes must be {MAGIC!r}; received "
                f"{start[:4]!r}"
            )
        if len(start) < 8:
            raise _damaged(path, size, "it ends within the header")
        _check_version(path, start[4:])
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _read(_Cursor(data, 8), size)
            except _Damaged as error:
                raise _damaged(path, size, str(error)) from None


def _check_version(path: Path, stored: bytes) -> None:
    little, big = int.from_bytes(stored, "little"), int.from_bytes(stored, "big")
    if little in VERSIONS:
        return
    if big in VERSIONS:
        raise ValueError(
            f"{path} was written for big-endian machines; convert it with `python -m "
            f"gguf.scripts.gguf_convert_endian {path.name} little`"
        )
    raise ValueError(
        f"{path}: the version of a GGUF file must be one of {', '.join(map(str, VERSIONS))}; "
        f"received {little}. Convert the model again with llama.cpp's convert_hf_to_gguf.py"
    )


class _Damaged(Exception):
    """A description of the damage."""


def _damaged(path: Path, size: int, what: str) -> ValueError:
    return ValueError(f"{path} is damaged or cut short ({size:,} bytes; {what}); {GET_AGAIN}")


class _Cursor:
    """A position in the file, and functions that read from there."""

    def __init__(self, data: mmap.mmap, place: int) -> None:
        self.data = data
        self.place = place

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.place:
            raise _Damaged(f"{size:,} bytes are announced at byte {self.place:,}")
        self.place += size
        return self.data[self.place - size : self.place]

    def count(self, least_bytes: int) -> int:
        """Read a number of entries that have at least so many bytes each."""
        count = self.number("<Q")
        if count * least_bytes > len(self.data) - self.place:
            raise _Damaged(f"{count:,} entries are announced at byte {self.place - 8:,}")
        return count

    def number(self, kind: str) -> int:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        place = self.place
        try:
            return self.take(self.number("<Q")).decode()
        except UnicodeDecodeError:
            raise _Damaged(f"the text at byte {place:,} is not UTF-8") from None

    def value(self) -> Any:
        kind = self.kind()
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return _numbers(self.take(np.dtype(_NUMBERS[kind]).itemsize), kind)[0]
        kind = self.kind()
        if kind == _ARRAY:
            raise _Damaged(f"there is a list of lists at byte {self.place:,}")
        if kind == _STRING:
            return [self.text() for _ in range(self.count(8))]
        size = np.dtype(_NUMBERS[kind]).itemsize
        return _numbers(self.take(self.count(size) * size), kind)

    def kind(self) -> gguf.GGUFValueType:
        number = self.number("<I")
        try:
            return gguf.GGUFValueType(number)
        except ValueError:
            raise _Damaged(f"the value at byte {self.place:,} has the type {number}") from None


def _numbers(data: bytes, kind: gguf.GGUFValueType) -> list[Any]:
    values = np.frombuffer(data, _NUMBERS[kind])
    if kind == gguf.GGUFValueType.FLOAT32:
        return [float(str(value)) for value in values]
    return values.tolist()


def _read(cursor: _Cursor, size: int) -> Header:
    num_tensors = cursor.count(_LEAST_TENSOR)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count(_LEAST_PAIR)):
        key = cursor.text()
        if key in metadata:
            raise _Damaged(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value()
    tensors: dict[str, StoredTensor] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        if name in tensors:
            raise _Damaged(f"the tensor {name!r} occurs twice")
        tensors[name] = _tensor(cursor, name)
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _Damaged(f"general.alignment is {alignment!r}, which is not a power of two")
    start = -(-cursor.place // alignment) * alignment
    tensors = {name: t._replace(offset=start + t.offset) for name, t in tensors.items()}
    _check_places(tensors, size, alignment)
    return Header(metadata, tensors)


def _tensor(cursor: _Cursor, name: str) -> StoredTensor:
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise _Damaged(f"the tensor {name!r} has {dimensions} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
    number, offset = cursor.number("<I"), cursor.number("<Q")
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        return StoredTensor(f"type {number}", shape, offset, 0)
    elements = 1
    for length in shape:
        elements *= length
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if elements == 0 or shape[-1] % block:
        raise _Damaged(f"the tensor {name!r} of type {kind.name} has the shape {list(shape)}")
    return StoredTensor(kind.name, shape, offset, elements // block * block_bytes)


def _check_places(tensors: dict[str, StoredTensor], size: int, alignment: int) -> None:
    """Check that each tensor is within the file, aligned, and overlaps with no other."""
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        first, after = tensor.offset, tensor.offset + tensor.num_bytes
        if after > size:
            raise _Damaged(f"the tensor {name!r} is said to end at byte {after:,}")
        if first % alignment:
            raise _Damaged(f"the tensor {name!r} begins at byte {first:,}, which is not aligned")
        if first < end:
            raise _Damaged(f"the tensors {before!r} and {name!r} overlap")
        end, before = after, name
