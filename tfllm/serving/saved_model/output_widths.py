"""Which outputs of a SavedModel have a width that depends on the rows, and what splits requests.

With `enable_large_batch_splitting`, TensorFlow Serving runs a request of many rows in parts and
joins the parts' outputs by the shape of the first (batching/batching_session.cc of 2.20). The
result is right only if the shape of every output beyond the rows is the same for all rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SPLITTING = re.compile(r"enable_large_batch_splitting\s*:?\s*[{<]\s*value\s*:\s*(true|True|t|1)\b")
_COMMENTS = re.compile(r"^\s*#.*$", re.MULTILINE)


def shape_of(info: Any) -> list[int | None] | None:
    """A TensorInfo's shape; None stands for an unknown dimension or an unknown rank."""
    if info.tensor_shape.unknown_rank:
        return None
    return [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]


def has_open_width(info: Any) -> bool:
    """Whether the shape of an output beyond the rows is not fixed."""
    shape = shape_of(info)
    return shape is None or None in shape[1:]


def open_outputs(signatures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The outputs whose width is open, each as (signature, output).

    Args:
        signatures: signature name to SignatureDef.
    """
    for name, signature in sorted(signatures.items()):
        for key, info in sorted(signature.outputs.items()):
            if not name.startswith("__") and has_open_width(info):
                yield name, key


def why_not_split(model_folder: Path) -> str:
    """Why requests to a model must not be split; "" if they may be.

    All versions of the model count, because any of them may be served under a label.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    versions = [p for p in model_folder.glob("*") if p.name.isascii() and p.name.isdigit()]
    for version in sorted(versions, key=lambda path: int(path.name)):
        where = f"{model_folder.name}/{version.name}"
        try:
            content = (version / "saved_model.pb").read_bytes()
            graphs = saved_model_pb2.SavedModel.FromString(content).meta_graphs
        except (OSError, DecodeError):
            return f"{where} cannot be read, so nothing is known about its outputs"
        for graph in graphs:
            for name, output in open_outputs(graph.signature_def):
                return f"the width of {output!r}, an output of {name} of {where}, is not fixed"
    return "" if versions else f"{model_folder.name} has no version yet"


def splitting_files(version: Path) -> list[Path]:
    """The files around a version that enable the splitting of large requests."""
    base = version.resolve().parent.parent
    files = [version / "batching_params.pbtxt", base / "batching.config", base / "kserve.yaml"]
    found = []
    for path in files:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        if _SPLITTING.search(_COMMENTS.sub("", text)):
            found.append(path)
    return found
