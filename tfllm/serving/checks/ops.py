"""Rules about what a SavedModel needs of the server: linked ops, kernels, XLA, Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tfllm.serving.checks.report import Finding, Severity, listed
from tfllm.serving.saved_model.graph import Place, SavedModelGraph
from tfllm.serving.saved_model.linked_ops import NOT_IN_TEXT_2_12, linked_ops

ONEDNN_OPS = {"_QuantizedMatMul"}
"""that have a kernel only where TensorFlow is built with oneDNN"""
PYTHON_FUNCTIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def check_ops(graph: SavedModelGraph) -> Iterator[Finding]:
    """Findings about ops and functions that TensorFlow Serving 2.20 cannot run."""
    yield from _linked(graph)
    yield from _python_functions(graph)
    yield from _compiled(graph)


def _linked(graph: SavedModelGraph) -> Iterator[Finding]:
    known = linked_ops()
    unknown: dict[str, list[Place]] = {}
    attributes: dict[tuple[str, str], list[Place]] = {}
    without_kernel: dict[str, list[Place]] = {}
    newer_text: dict[str, list[Place]] = {}
    of_onednn: list[Place] = []
    for place in graph.places:
        op = place.node.op
        if op in graph.functions:
            continue
        if op not in known.attributes:
            unknown.setdefault(op, []).append(place)
            continue
        for name in place.node.attr:
            # A leading underscore marks an annotation that any op may carry.
            if not name.startswith("_") and name not in known.attributes[op]:
                attributes.setdefault((op, name), []).append(place)
        if op in known.without_cpu_kernel - PYTHON_FUNCTIONS and place.signatures:
            without_kernel.setdefault(op, []).append(place)
        if op in ONEDNN_OPS and place.signatures:
            of_onednn.append(place)
        if op in NOT_IN_TEXT_2_12:
            newer_text.setdefault(op, []).append(place)
    for op, places in sorted(unknown.items()):
        yield Finding(
            _severity_of_loading(places),
            "op_not_linked",
            f"op {op}, which TensorFlow Serving 2.20 does not link, {where(places)}",
            "use ops of TensorFlow and TensorFlow Text; if it is newer than 2.20, export from an "
            "environment with tensorflow==2.20.*; else build a server that links it",
        )
    for (op, name), places in sorted(attributes.items()):
        yield Finding(
            _severity_of_loading(places),
            "attribute_not_known",
            f"op {op} has the attribute {name!r}, which 2.20's {op} lacks, {where(places)}",
            "export from an environment with tensorflow==2.20.*",
        )
    for op, places in sorted(without_kernel.items()):
        yield Finding(
            "error",
            "no_cpu_kernel",
            f"op {op} has no kernel for a CPU, {where(places)}",
            "save the model on a CPU, with the layer's portable implementation (for Keras RNNs "
            "use_cudnn=False), or serve it with the image of that device",
        )
    if of_onednn:
        yield Finding(
            "info",
            "onednn_op",
            f"products of int8 integers by oneDNN {where(of_onednn)}",
            "serve on x86, with a TensorFlow that is built with oneDNN, as releases are; for other "
            "servers, export with --int8-kernels portable",
        )
    if newer_text:
        places = [place for found in newer_text.values() for place in found]
        yield Finding(
            "info",
            "newer_text_op",
            f"{listed(sorted(newer_text))} is in Serving 2.20 but not in 2.16 to 2.19, "
            f"{where(places)}",
            "serve with tensorflow/serving:2.20.0",
        )


def _python_functions(graph: SavedModelGraph) -> Iterator[Finding]:
    places = [place for place in graph.places if place.node.op in PYTHON_FUNCTIONS]
    if places:
        ops = listed(sorted({place.node.op for place in places}))
        yield Finding(
            "error" if any(place.signatures for place in places) else "warning",
            "python_function",
            f"{ops} calls Python, which a server does not have, {where(places)}",
            "replace tf.py_function and tf.numpy_function with TensorFlow ops",
        )


def _compiled(graph: SavedModelGraph) -> Iterator[Finding]:
    marked: dict[str, tuple[str, ...]] = {}
    for name, function in graph.functions.items():
        if _must_compile(function):
            marked[name] = graph.callers(name)
    for place in graph.places:
        if _must_compile(place.node) and not set(graph.callees(place.node)) & marked.keys():
            marked[name_of(place)] = place.signatures
    if marked:
        callers = sorted({name for names in marked.values() for name in names})
        calls = f"run by {listed(callers)}" if callers else "which no signature calls"
        yield Finding(
            "error" if callers else "warning",
            "xla_must_compile",
            f"{len(marked)} function(s) marked jit_compile=True, {calls}: "
            f"{listed(sorted(marked))}. Serving has XLA off and answers INTERNAL",
            "export without jit_compile=True (in Keras: model.compile(jit_compile=False) before "
            "the functions are traced)",
        )


def _must_compile(owner: Any) -> bool:
    # Looking up an absent key of a protocol buffer's map would add it.
    return "_XlaMustCompile" in owner.attr and owner.attr["_XlaMustCompile"].b


def _severity_of_loading(places: Iterable[Place]) -> Severity:
    """Error if the graph itself, or a function that is run, contains a node; else warning."""
    return "error" if any(not p.function or p.signatures for p in places) else "warning"


def name_of(place: Place) -> str:
    """A node's name, prefixed by its function."""
    return f"{place.function}/{place.node.name}" if place.function else place.node.name


def where(places: list[Place]) -> str:
    """Where nodes are, such as "in 3 nodes (a, f/b and 1 more), run by serving_default"."""
    names = listed((name_of(place) for place in places), limit=2)
    signatures = sorted({name for place in places for name in place.signatures})
    run = f"run by {listed(signatures)}" if signatures else "run by no signature"
    return f"in {len(places)} node{'s' if len(places) != 1 else ''} ({names}), {run}"
