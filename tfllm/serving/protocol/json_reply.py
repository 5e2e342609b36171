"""Replies in TensorFlow Serving's JSON: predictions by rows or columns, status and metadata.

Numbers are written as in TensorFlow Serving. It sends invalid JSON if a text is not valid UTF-8;
here such bytes are replaced by U+FFFD. An output named `..._bytes` is written in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfllm.serving.protocol.errors import invalid_argument

if TYPE_CHECKING:
    from tfllm.serving.server.repository import VersionStatus
    from tfllm.serving.server.servable import Servable


def write_predict(outputs: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """The reply to a `:predict`.

    Args:
        outputs: output name to array; strings as arrays of bytes.
        by_rows: whether to write `{"predictions": [row, ...]}` instead of `{"outputs": ...}`. A
            single output is written without its name.

    Raises:
        ServingError: INVALID_ARGUMENT if the outputs have no common dimension 0 (by rows), or a
            type that the JSON does not support.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if not by_rows:
        texts = {name: _nest(_scalars(name, array), array.shape) for name, array in outputs.items()}
        return f'{{"outputs": {_named(texts)}}}'.encode()
    rows: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows is not None and array.shape[0] != rows:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} "
                f"expecting: {rows}"
            )
        rows = array.shape[0]
    assert rows is not None
    columns = {name: _items(_scalars(name, a), a.shape) for name, a in outputs.items()}
    written = (_named({n: items[row] for n, items in columns.items()}) for row in range(rows))
    return f'{{"predictions": [{", ".join(written)}]}}'.encode()


def write_status(statuses: Iterable[VersionStatus]) -> bytes:
    """The reply to a request for the status of a model: the states of its versions."""
    entries = [
        {
            "version": str(status.version),
            "state": status.state,
            "status": {"error_code": status.error_code, "error_message": status.error_message},
        }
        for status in statuses
    ]
    return json.dumps({"model_version_status": entries}, indent=1).encode()


def write_metadata(servable: Servable) -> bytes:
    """The reply to `/metadata`: the signatures of a version."""
    from google.protobuf.json_format import MessageToDict

    definitions = {
        key: MessageToDict(
            definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for key, definition in servable.signature_defs.items()
    }
    spec = {"name": servable.name, "signature_name": "", "version": str(servable.version)}
    metadata = {"signature_def": {"signature_def": definitions}}
    return json.dumps({"model_spec": spec, "metadata": metadata}, indent=1).encode()


def write_error(message: str) -> bytes:
    """The reply `{"error": message}`."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")


def _named(texts: Mapping[str, str]) -> str:
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}"


def _scalars(name: str, array: np.ndarray) -> list[str]:
    """The JSON text of each element, in row-major order."""
    flat = array.ravel()
    if array.dtype == np.object_:
        if name.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(item).decode()}"}}' for item in flat]
        return [json.dumps(i.decode("utf-8", "replace"), ensure_ascii=False) for i in flat]
    if array.dtype == np.bool_:
        return ["true" if item else "false" for item in flat]
    if array.dtype in (np.float32, np.float64):
        return decimals(flat)
    if array.dtype.kind in "iu" and array.dtype != np.uint16:
        return list(map(str, flat.tolist()))
    raise invalid_argument(f"Failed to write JSON value for tensor type: {array.dtype.name}")


def decimals(flat: np.ndarray) -> list[str]:
    """Floats as text: six digits if these are exact, else all of the dtype, as in Serving."""
    values = flat.tolist()
    texts = [f"{value:.6g}" for value in values]
    digits = 9 if flat.dtype == np.float32 else 17
    with np.errstate(over="ignore"):
        inexact = np.array(texts, np.float64).astype(flat.dtype) != flat
    for index in np.flatnonzero(inexact):
        texts[index] = f"{values[index]:.{digits}g}"
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [
        text if "." in text or "e" in text else words.get(text) or text + ".0" for text in texts
    ]


def _items(texts: list[str], shape: tuple[int, ...]) -> list[str]:
    """The texts of the elements along dimension 0, each with its nested lists."""
    if len(shape) == 1:
        return texts
    step = len(texts) // shape[0] if shape[0] else 0
    return [_nest(texts[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _nest(texts: list[str], shape: tuple[int, ...]) -> str:
    return texts[0] if not shape else f"[{', '.join(_items(texts, shape))}]"
