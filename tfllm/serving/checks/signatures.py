"""Rules about a SavedModel's signatures: what REST and the batch scheduler can carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.saved_model.graph import SavedModelGraph
from tfllm.serving.saved_model.output_widths import shape_of

DEFAULT_SIGNATURE = "serving_default"

JSON_TYPES = {"DT_FLOAT", "DT_DOUBLE", "DT_INT8", "DT_INT16", "DT_INT32", "DT_INT64", "DT_UINT8"}
JSON_TYPES |= {"DT_UINT32", "DT_UINT64", "DT_BOOL", "DT_STRING"}


def check_signatures(graph: SavedModelGraph) -> Iterator[Finding]:
    """Findings about the inputs and outputs of every signature."""
    if not graph.signatures:
        yield Finding(
            "error",
            "no_signatures",
            "the model has no signature, so it cannot answer any request",
            "pass signatures={...} to tf.saved_model.save, or use model.export",
        )
        return
    if DEFAULT_SIGNATURE not in graph.signatures:
        yield Finding(
            "warning",
            "no_default_signature",
            f"no signature is named {DEFAULT_SIGNATURE!r}; there are {listed(graph.signatures)}. A "
            "request that names none is refused",
            f"save one of them as {DEFAULT_SIGNATURE!r}",
        )
    for name, signature in graph.signatures.items():
        sides = (("input", signature.inputs), ("output", signature.outputs))
        for side, infos in sides:
            for key, info in sorted(infos.items()):
                yield from _type(f"{side} {key!r} of {name}", side, info)
        for key, info in sorted(signature.inputs.items()):
            yield from _input_shape(f"input {key!r} of {name}", shape_of(info))
        for key, info in sorted(signature.outputs.items()):
            if shape_of(info) == []:
                yield Finding(
                    "warning",
                    "scalar_output",
                    f"output {key!r} of {name} is a scalar: a request by rows (`instances`) gets "
                    "an error, and so does every request when batching is on",
                    "give it the shape [batch], one value for each row",
                )


def _type(what: str, side: str, info: Any) -> Iterator[Finding]:
    from tensorflow.core.framework import types_pb2

    if info.WhichOneof("encoding") in ("coo_sparse", "composite_tensor"):
        yield Finding(
            "error",
            "not_dense",
            f"{what} is a sparse, ragged or other composite tensor, which Predict does not take",
            "take and give dense tensors: pad them, and give the lengths as another tensor",
        )
        return
    dtype = types_pb2.DataType.Name(info.dtype)
    if dtype in JSON_TYPES:
        return
    fix = {
        "DT_HALF": "cast to float32",
        "DT_BFLOAT16": "cast to float32",
        "DT_COMPLEX64": "give the real and the imaginary part as separate outputs",
        "DT_COMPLEX128": "give the real and the imaginary part as separate outputs",
        "DT_UINT16": "cast to int32",
        "DT_RESOURCE": "do not let a handle leave the model",
        "DT_VARIANT": "give the dense tensors that it is made of",
    }.get(dtype, "cast to a type that JSON has")
    yield Finding(
        "error",
        "type_not_in_json",
        f"{what} is {dtype[3:].lower()}, which TensorFlow Serving's REST cannot "
        f"{'read' if side == 'input' else 'write'}",
        fix,
    )


def _input_shape(what: str, shape: list[int | None] | None) -> Iterator[Finding]:
    batch = "give it the shape [batch, ...], with an unknown first dimension"
    if shape is None:
        yield Finding(
            "warning",
            "unknown_rank",
            f"{what} has a shape of unknown rank, so its first dimension may not be the batch",
            batch,
        )
    elif not shape:
        yield Finding(
            "warning",
            "scalar_input",
            f"{what} is a scalar: it cannot be sent by rows (`instances`), and requests cannot be "
            "batched",
            "give it the shape [batch], one value for each row",
        )
    elif shape[0] is not None:
        yield Finding(
            "warning",
            "fixed_batch",
            f"{what} has exactly {shape[0]} rows: requests cannot be batched",
            batch,
        )
    if shape and None in shape[1:]:
        yield Finding(
            "warning",
            "unknown_dimension",
            f"{what} has the shape {_shown(shape)}: requests whose rows differ in length are "
            "refused when batched, or padded with their own first element",
            "take text as string[batch], or pad to one length inside the request and fix it",
        )


def _shown(shape: list[int | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"
