"""Reads tensors from TensorFlow Serving's JSON: `instances` (rows) and `inputs` (columns).

Rules and messages are those of TensorFlow Serving's REST API, so that a client sees no difference:
all rows have one shape, integer inputs take whole numbers, bytes are written as `{"b64": ...}`, and
NaN and Infinity are bare words. A few rules are stricter: an integer that does not fit its type is
refused instead of wrapped around, and so is a name that is not in the signature. docs/serving.md
lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfllm.serving.protocol.errors import ServingError, invalid_argument
from tfllm.serving.protocol.json_request import is_base64, json_type, read_base64, read_json, show

NUMPY_TYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "string": np.object_,
}
"""TensorFlow's name of a type that the JSON supports, to NumPy's; strings are arrays of bytes"""

_LIMITS = {
    name: (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    for name, kind in NUMPY_TYPES.items()
    if "int" in name
}
_MAX_RANK = 32


class TensorInfo(NamedTuple):
    """Type and shape of an input or output of a signature."""

    dtype: str
    """TensorFlow's name: "float", "int32", "string", ..."""
    shape: tuple[int | None, ...] | None
    """None stands for an open dimension, or for an unknown rank"""


class PredictRequest(NamedTuple):
    """The content of a `:predict` body."""

    signature_name: str
    """name of the signature; "" if the body has none"""
    inputs: dict[str, np.ndarray]
    """input name to array"""
    by_rows: bool
    """whether the body has `instances` (rows), so the reply has `predictions`; else `inputs` and
    `outputs`"""


def read_predict(
    body: bytes, signature_inputs: Callable[[str], Mapping[str, TensorInfo]]
) -> PredictRequest:
    """Read the tensors of a `:predict` body.

    Args:
        body: the request's JSON.
        signature_inputs: function of a signature's name ("" for the default) to its inputs; it
            raises if the signature does not exist.

    Raises:
        ServingError: INVALID_ARGUMENT for a body that breaks a rule; UNIMPLEMENTED for an input
            whose type the JSON does not support.
    """
    document, valid = read_json(body)
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {show(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    infos = signature_inputs(name)
    if not infos:
        raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    if ("instances" in document) == ("inputs" in document):
        if "inputs" in document:
            raise invalid_argument(
                f"JSON Value: {show(document)} Not formatted correctly expecting only one of "
                "'inputs' or 'instances' keys to exist "
            )
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    reader = _Reader(valid)
    if "inputs" in document:
        return PredictRequest(name, reader.columns(document["inputs"], infos), False)
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid_argument(
            f"JSON Value: {show(document)} Expecting 'instances' to be an list/array"
        )
    if not rows:
        raise invalid_argument(f"JSON Value: {show(document)} No values in 'instances' array")
    return PredictRequest(name, reader.rows(rows, infos), True)


class _Reader:
    """Converts JSON values to arrays.

    Args:
        valid: whether the body is valid UTF-8.
    """

    def __init__(self, valid: bool) -> None:
        self._errors = "strict" if valid else "surrogateescape"

    def columns(self, value: Any, infos: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
        if not isinstance(value, dict) or is_base64(value):
            if len(infos) > 1:
                raise invalid_argument(
                    "inputs is a plain value/list, but expecting an object as multiple input "
                    "tensors required as per tensorinfo_map"
                )
            (name,) = infos
            return {name: self.tensor(value, infos[name].dtype)}
        arrays = {}
        for name, info in infos.items():
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
            arrays[name] = self.tensor(value[name], info.dtype)
        extra = sorted(set(value) - set(infos))
        if extra:  # Serving ignores these, but a misspelled option must not go unnoticed
            raise invalid_argument(
                f"'inputs' object has names that the signature does not: {','.join(extra)}; "
                f"keys must be equal to: {','.join(sorted(infos))}"
            )
        return arrays

    def rows(self, rows: list, infos: Mapping[str, TensorInfo]) -> dict[str, np.ndarray]:
        if not isinstance(rows[0], dict) and len(infos) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input "
                "tensors required as per tensorinfo_map"
            )
        named = _is_named(rows[0])
        columns: dict[str, list[np.ndarray]] = {name: [] for name in infos}
        (only, *_) = infos
        for index, row in enumerate(rows):
            if named != _is_named(row):
                wanted, got = ("object", "list") if named else ("value/list", "object")
                raise invalid_argument(
                    f"Expecting {wanted} but got {got} at item {index} of input list"
                )
            for name, value in row.items() if named else ((only, row),):
                try:
                    self._add(columns, infos, name, value)
                except ServingError as error:
                    key = f" key: {name}" if named else ""
                    raise invalid_argument(
                        f"Failed to process element: {index}{key} of 'instances' list. "
                        f"Error: {error}"
                    ) from None
            if named and set(row) != set(infos):
                raise invalid_argument(
                    f"Failed to process element: {index} of 'instances' list. "
                    f"JSON object: {show(row)} keys must be equal to: {','.join(sorted(infos))}"
                )
        return {name: np.stack(arrays) for name, arrays in columns.items() if arrays}

    def _add(
        self,
        columns: dict[str, list[np.ndarray]],
        infos: Mapping[str, TensorInfo],
        name: str,
        value: Any,
    ) -> None:
        if name not in infos:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        array = self.tensor(value, infos[name].dtype)
        if columns[name]:
            first = columns[name][0]
            if first.size != array.size:
                raise invalid_argument(f"Expecting tensor size: {first.size} but got: {array.size}")
            if first.shape != array.shape:
                raise invalid_argument(
                    f"Expecting shape {_shape(first.shape)} but got: {_shape(array.shape)}"
                )
        columns[name].append(array)

    def tensor(self, value: Any, dtype: str) -> np.ndarray:
        """Convert a value, or lists of values nested to one depth, to an array of `dtype`."""
        shape: list[int] = []
        inner = value
        while isinstance(inner, list):
            shape.append(len(inner))
            if not inner:
                break
            inner = inner[0]
        if len(shape) > _MAX_RANK:
            raise invalid_argument(
                f"Encountered lists nested {len(shape)} deep; a tensor has at most {_MAX_RANK} "
                "dimensions"
            )
        flat: list[Any] = []
        self._flatten(value, 0, shape, dtype, flat)
        try:
            with np.errstate(over="ignore"):  # too big for float32 is infinite, as in Serving
                array = np.empty(len(flat), NUMPY_TYPES.get(dtype, np.object_))
                array[:] = flat
        except OverflowError:
            raise invalid_argument(
                "JSON Parse error: Number too big to be stored in double."
            ) from None
        return array.reshape(shape)

    def _flatten(self, value: Any, level: int, shape: list[int], dtype: str, flat: list) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {show(value)} found at incorrect level: {level + 1} in the "
                    f"JSON DOM. Expected at level: {len(shape)}"
                )
            flat.append(self._scalar(value, dtype))
            return
        if level >= len(shape):
            raise invalid_argument(
                f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            )
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        for item in value:
            self._flatten(item, level + 1, shape, dtype, flat)

    def _scalar(self, value: Any, dtype: str) -> Any:
        kind = type(value)
        if dtype == "string":
            if kind is str:
                try:
                    return value.encode("utf-8", self._errors)
                except UnicodeEncodeError:
                    raise invalid_argument(
                        "JSON Parse error: The surrogate pair in string is invalid."
                    ) from None
            if isinstance(value, dict):
                return read_base64(value)
        elif dtype in ("float", "double"):
            if kind is float or kind is int:
                return value
        elif dtype == "bool":
            if kind is bool:
                return value
        elif dtype in _LIMITS:
            if kind is int and _LIMITS[dtype][0] <= value <= _LIMITS[dtype][1]:
                return value
        elif not isinstance(value, dict):
            raise ServingError(
                "UNIMPLEMENTED", f"Conversion of JSON Value: {show(value)} to type: {dtype}"
            )
        raise invalid_argument(
            f"JSON Value: {show(value)} Type: {json_type(value)} is not of expected type: {dtype}"
        )


def _is_named(row: Any) -> bool:
    return isinstance(row, dict) and not is_base64(row)


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
