"""The probes of a check: odd texts together, one by one and in parts, for each signature."""

from __future__ import annotations

from dataclasses import replace

from tfllm.serving.checks.graph import mutable_tables
from tfllm.serving.checks.probe import (
    EXAMPLE_METHODS,
    LONG_TEXT,
    ODD_TEXTS,
    OTHER_TEXT,
    Probe,
    example_inputs,
)
from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.checks.request import STRING, Request
from tfllm.serving.checks.signatures import DEFAULT_SIGNATURE
from tfllm.serving.saved_model.graph import SavedModelGraph
from tfllm.serving.saved_model.output_widths import shape_of


def probe_requests(graph: SavedModelGraph, known: list[Request]) -> list[Request]:
    """Odd texts for each string input of every signature: all in one batch, then one by one.

    The other inputs are taken from the first row of a warm-up request of the signature, so a
    signature that has inputs of other types and no warm-up request is not probed.

    Args:
        graph: the SavedModel's.
        known: the requests that run before the probes.
    """
    probes: list[Request] = []
    empty: list[Request] = []
    for name, signature in graph.signatures.items():
        inputs = signature.inputs
        example = example_inputs(name, signature, known)
        if example is None:
            continue
        for key in sorted(key for key, info in inputs.items() if info.dtype == STRING):
            probe = Probe(name, signature, key, example)
            for texts in probe.batches():
                together = len(known) + len(probes)
                probes.append(probe.request("probe", texts))
                if probe.size is None:
                    rows = ({label: text} for label, text in texts)
                    probes += [
                        replace(probe.request("row", row.items()), only_if_failed=together)
                        for row in rows
                    ]
            if mutable_tables(graph):
                texts = [("other words", OTHER_TEXT)] * (probe.size or 1)
                probes.append(probe.request("growth", texts))
            if probe.size is None and name not in {request.signature for request in empty}:
                empty.append(probe.request("empty", []))
        if signature.method_name in EXAMPLE_METHODS:
            together = len(known) + len(probes)
            damaged = probe.damaged()
            probes.append(probe.of_messages("probe", damaged))
            rows = ({label: text} for label, text in damaged)
            probes += [
                replace(probe.of_messages("row", row.items()), only_if_failed=together)
                for row in rows
            ]
    probes += _part_requests(graph, known, probes)
    # Last, because a kernel that does not support an empty batch may end the process.
    return probes + empty


def full_batches(graph: SavedModelGraph, known: list[Request], rows: int) -> list[Request]:
    """A batch of long texts for each string input, as a busy server runs it.

    Args:
        graph: the SavedModel's.
        known: requests with examples of inputs, as for `probe_requests`.
        rows: number of rows of a batch, unless the input has a fixed number.
    """
    found = []
    for name, signature in graph.signatures.items():
        example = example_inputs(name, signature, known)
        if example is None:
            continue
        texts = [key for key, info in signature.inputs.items() if info.dtype == STRING]
        for key in sorted(texts):  # all, since one of them may be an option
            probe = Probe(name, signature, key, example)
            number = probe.size or rows
            found.append(probe.request("full", [("a long text", LONG_TEXT)] * number))
    return found


def _part_requests(
    graph: SavedModelGraph, known: list[Request], probes: list[Request]
) -> list[Request]:
    """For each signature, some rows together and then in parts: all but the last, the last, and
    the first.

    The rows are the odd texts; if the signature has no string input, those of a `known` request.
    """
    found: list[Request] = []
    for name, signature in graph.signatures.items():
        example = example_inputs(name, signature, known)
        keys = [key for key, info in signature.inputs.items() if info.dtype == STRING]
        shapes = [shape_of(info) for info in signature.inputs.values()]
        if example is None or any(shape == [] or (shape and shape[0]) for shape in shapes):
            continue
        before = len(known) + len(probes)
        if keys:
            probe = Probe(name, signature, keys[0], example)
            texts = list(ODD_TEXTS.items())
            whole = probe.request("whole", texts)
            if len(keys) > 1:
                columns = [Probe(name, signature, key, example) for key in keys]
                varied = {c.key: c.request("whole", texts).inputs[c.key] for c in columns}
                whole = replace(whole, name=f"texts of {name}", inputs={**whole.inputs, **varied})
        else:
            several = [r for r in known if r.signature == name and (r.batch or 0) > 1]
            if not several:
                continue
            whole = replace(several[0], kind="whole", outputs=tuple(sorted(signature.outputs)))
        rows = whole.batch or 0
        if rows < 2:
            continue
        index = before + len(found)
        same = [i for i, r in enumerate(probes) if keys == keys[:1] and _are_alike(r, whole)]
        if same:  # it is among the probes already
            index = len(known) + same[0]
        else:
            found.append(whole)
        for begin, end in ((0, rows - 1), (rows - 1, rows), (0, 1)):
            found.append(
                replace(
                    whole,
                    kind="part",
                    inputs={key: value[begin:end] for key, value in whole.inputs.items()},
                    batch=end - begin,
                    rows=whole.rows[begin:end],
                    part_of=index,
                    first_row=begin,
                )
            )
    return found


def _are_alike(probe: Request, whole: Request) -> bool:
    return (probe.kind, probe.signature, probe.rows) == ("probe", whole.signature, whole.rows)


def signatures_not_run(graph: SavedModelGraph, requests: list[Request]) -> list[Finding]:
    """A finding if some signatures get no request."""
    missing = [name for name in graph.signatures if name not in {r.signature for r in requests}]
    if not missing:
        return []
    severity = "warning" if DEFAULT_SIGNATURE in missing else "info"
    return [
        Finding(
            severity,  # type: ignore[arg-type]
            "signature_not_run",
            f"not run, because there is no example of their inputs: {listed(missing)}",
            "write a warm-up request for each signature",
        )
    ]
