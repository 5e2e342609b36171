"""Rules about the answers to rows that a server joins into batches or splits into parts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.checks.request import STRING, Request
from tfllm.serving.saved_model.graph import SavedModelGraph
from tfllm.serving.saved_model.output_widths import has_open_width, shape_of, splitting_files

_RELATIVE, _ABSOLUTE = 0.1, 0.01
"""tolerances for rounding: sums over other widths, possibly in bfloat16"""

Widths = dict[tuple[str, str], str]
"""(signature, output) to a description of its shapes, if they differed between requests"""


def check_widths(folder: Path, graph: SavedModelGraph, seen: Widths) -> Iterator[Finding]:
    """Findings about outputs whose width is open, or differed between requests.

    They are errors if a file around the model makes a server split large requests, else warnings.

    Args:
        folder: the version's folder.
        graph: its graph.
        seen: the result of `different_widths`.
    """
    files = splitting_files(folder)
    for name, signature in sorted(graph.signatures.items()):
        for key, info in sorted(signature.outputs.items()):
            if not has_open_width(info) and (name, key) not in seen:
                continue
            shape = shape_of(info)
            said = "?" if shape is None else [-1 if dim is None else dim for dim in shape]
            shown = seen.get((name, key), "it did not differ between the requests that were run")
            what = f"output {key!r} of {name} has no fixed width (its shape is {said}; {shown})"
            fix = (
                "give it a fixed width and the count, or one string a row, such as a JSON list; "
                "or take enable_large_batch_splitting out of the batching parameters"
            )
            if files:
                names = listed(path.name for path in files)
                yield Finding(
                    "error",
                    "open_width_is_split",
                    f"{what}, and {names} makes TensorFlow Serving split requests of many rows: it "
                    "joins the parts by the shape of the first, so rows get wrong values, or the "
                    "server crashes",
                    fix,
                )
            else:
                yield Finding(
                    "warning",
                    "open_width",
                    f"{what}: its width depends on the rows of other clients in the batch, and "
                    "with enable_large_batch_splitting a server would give wrong values",
                    fix,
                )


def different_widths(results: dict[int, dict[str, Any]], requests: Sequence[Request]) -> Widths:
    """The outputs whose shape beyond the rows differed between the requests of one signature."""
    shapes: dict[tuple[str, str], dict[tuple[int, ...], str]] = {}
    for index, result in sorted(results.items()):
        request = requests[index]
        for name, output in zip(request.outputs, result["outputs"], strict=False):
            if request.batch is None or not output["shape"]:
                continue
            found = shapes.setdefault((request.signature, name), {})
            found.setdefault(tuple(output["shape"][1:]), _rows_of(request))
    return {
        key: "; ".join(f"{list(shape)} for {rows}" for shape, rows in list(found.items())[:3])
        for key, found in shapes.items()
        if len(found) > 1
    }


def check_parts(
    results: dict[int, dict[str, Any]], requests: Sequence[Request]
) -> Iterator[Finding]:
    """A finding for each signature that answers a row differently in a part than in the whole."""
    told = set()
    for index, part in sorted(results.items()):
        request = requests[index]
        whole = results.get(-1 if request.part_of is None else request.part_of)
        if whole is None or part["error"] or whole["error"] or request.signature in told:
            continue
        for row in range(request.batch or 0):
            numbers, texts = _differences(request, part, whole, row)
            if numbers or texts:
                told.add(request.signature)
                label = request.rows[row] if row < len(request.rows) else f"row {row}"
                yield Finding(
                    # Rounding may decide between two tokens that are equally likely.
                    "info" if texts else "warning",
                    "answer_depends_on_batch",
                    f"{label} gets another {listed([*texts, *numbers])} from {request.signature} "
                    f"in a batch of {request.batch} rows than in one of "
                    f"{requests[request.part_of or 0].batch}",
                    "mask the padding of a row, and let no row read another; generated texts may "
                    "also differ by rounding, where two tokens are nearly equally likely",
                )
                break


def _differences(
    request: Request, part: dict[str, Any], whole: dict[str, Any], row: int
) -> tuple[list[str], list[str]]:
    """Names of the numeric outputs and of the text outputs that differ for a row of a part."""
    numbers, texts = [], []
    for name, here, there in zip(request.outputs, part["outputs"], whole["outputs"], strict=False):
        one = _row_values(name, here, row)
        other = _row_values(name, there, row + request.first_row)
        if one is None or other is None or here["shape"][1:] != there["shape"][1:]:
            continue
        if isinstance(one, list) or isinstance(other, list):
            if one != other:
                texts.append(name)
        elif one.shape != other.shape or not np.allclose(
            one, other, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True
        ):
            numbers.append(name)
    return numbers, texts


def _row_values(name: str, output: dict[str, Any], row: int) -> Any:
    """A row's numbers as an array, or its strings as a list; None if they were not written."""
    values, shape = output.get("values"), output["shape"]
    if values is None or not shape or row >= shape[0]:
        return None
    size = len(values) // shape[0]
    mine = values[row * size : (row + 1) * size]
    if output["dtype"] != STRING:
        return np.array(mine, np.float64)
    texts = [base64.b64decode(text) for text in mine]
    if name.endswith("_json") and len(texts) == 1:
        try:
            found = np.array(json.loads(texts[0]), np.float64)
        except (ValueError, TypeError):  # JSON that is not a list of numbers
            return texts
        return found
    return texts


def _rows_of(request: Request) -> str:
    if request.rows:
        return listed(request.rows, 2)
    return f"{request.batch} rows of {request.name}"
