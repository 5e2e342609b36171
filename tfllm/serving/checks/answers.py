"""Rules about what a SavedModel does when it runs: failures, and answers that harm clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.checks.request import Request
from tfllm.serving.saved_model.graph import SavedModelGraph
from tfllm.serving.saved_model.output_widths import shape_of

REST_TIMEOUT_SECONDS = 30.0
"""TensorFlow Serving's default --rest_api_timeout_in_ms"""


def judge(
    events: list[dict[str, Any]],
    ended: str,
    requests: list[Request],
    graph: SavedModelGraph,
    timeout: float,
) -> Iterator[Finding]:
    """Findings from the events that the clean process wrote and from how it ended.

    Args:
        events: the events, in order.
        ended: "" if the process ended normally, "timeout", or how it died.
        requests: all requests, by the ids in the events.
        graph: the SavedModel's.
        timeout: time limit of the process, in seconds.
    """
    running = "the load"
    kind = "load"
    for event in events:
        if event["event"] == "start" and not event["xla_disabled"]:
            what = "XLA cannot be disabled in this TensorFlow, so the model ran with it"
            yield Finding("info", "xla_not_disabled", what, "check on Linux")
        elif event["event"] == "op_library_failed":
            what = f"{Path(event['path']).name} did not load: {event['error']}"
            fix = "install the tensorflow-text that fits tensorflow"
            yield Finding("warning", "op_library_failed", what, fix)
        elif event["event"] == "load_failed":
            fix = "see the findings about its files and ops, or load it with tf.saved_model.load"
            yield Finding("error", "load_failed", _first_lines(event["error"]), fix)
        elif event["event"] == "begin":
            running, kind = requests[event["id"]].name, requests[event["id"]].kind
    if ended == "timeout":
        yield Finding(
            "warning" if kind in ("probe", "row", "growth", "empty") else "error",
            "timeout",
            f"{running} had not ended after {timeout:g} s, the time limit of the whole check",
            "raise the time limit if the model is only slow on this machine",
        )
    elif ended:
        yield Finding(
            "error",
            "crash",
            f"the process died during {running} ({ended}): a server would die as well",
            "find the op in the message, and check the shapes and values that the request gives it",
        )
    results = {event["id"]: event for event in events if event["event"] == "end"}
    yield from _failures(results, requests)
    yield from _outputs(results, requests, graph)
    yield from _tables(results, requests)


def _failures(results: dict[int, dict[str, Any]], requests: list[Request]) -> Iterator[Finding]:
    answered = {requests[i].signature for i, result in results.items() if not result["error"]}
    told: set[tuple[str, bool]] = set()
    for index, result in results.items():
        request, error = requests[index], _first_lines(result["error"])
        if request.kind == "warm-up" and error:
            yield Finding(
                "error",
                "warmup_failed",
                f"{request.name} ({request.signature}) fails, so Serving does not load the model: "
                f"{error}",
                "fix the signature or the record",
            )
        elif request.kind == "warm-up" and result["seconds"] > REST_TIMEOUT_SECONDS:
            yield Finding(
                "warning",
                "slow_request",
                f"{request.name} ({request.signature}) took {result['seconds']:.0f} s: REST times "
                "out after 30 s",
                "raise --rest_api_timeout_in_ms, or answer with fewer tokens",
            )
        elif request.kind == "probe" and error:
            rows = [
                (requests[i], r) for i, r in results.items() if requests[i].only_if_failed == index
            ]
            never = request.signature not in answered
            if (request.name, never) not in told:
                yield _probe_failure(request, error, rows, never)
            if never:  # its other batches would repeat the message
                told.add((request.name, never))


def _probe_failure(
    probe: Request, error: str, rows: list[tuple[Request, dict[str, Any]]], never: bool
) -> Finding:
    """The finding for several rows of odd text that failed together.

    Args:
        probe: the request of these rows.
        error: its error.
        rows: a request and its result for each row alone.
        never: whether no request of this signature was answered.
    """
    if rows and not any(result["error"] for _, result in rows):
        return Finding(
            "error",
            "batch_fails",
            f"{probe.name}: each of {len(rows)} rows is answered alone, but not together: {error}",
            "let every op work on [batch, ...]; Serving sends several rows at once",
        )
    failed = [(request.rows[0], result["error"]) for request, result in rows if result["error"]]
    if never or (rows and len(failed) == len(rows)):
        return Finding(
            "error",
            "signature_fails",
            f"{probe.name}: every text fails: {error}",
            "see the findings about ops, or call the signature in Python to find the cause",
        )
    labels = [label for label, _ in failed] or list(probe.rows)
    reason = _first_lines(failed[0][1]) if failed else error
    return Finding(
        "warning",
        "text_refused",
        f"{probe.name}: {listed(labels, 6)} fails, and with it every row that it is batched with: "
        f"{reason}",
        "report a bad row in an output for errors, and answer the others as usual",
    )


def _outputs(
    results: dict[int, dict[str, Any]], requests: list[Request], graph: SavedModelGraph
) -> Iterator[Finding]:
    """A finding for each output and rule, from the first request that showed it."""
    found: dict[tuple[str, str, str], Finding] = {}
    for index, result in results.items():
        request = requests[index]
        signature = graph.signatures[request.signature]
        for name, output in zip(request.outputs, result["outputs"], strict=False):
            what = f"output {name!r} of {request.signature}"
            if output["not_utf8"] and not name.endswith("_bytes"):
                row, text = output["not_utf8"][0]
                finding = Finding(
                    "error",
                    "output_not_utf8",
                    f"{what} is not UTF-8 ({text}, answering {_row(request, row)}): REST writes "
                    "it unchanged, and the reply is not valid JSON",
                    "end with tf.strings.unicode_transcode(x, 'UTF-8', 'UTF-8', "
                    "errors='replace'), or name the output ..._bytes to have it sent as base64",
                )
                found.setdefault((request.signature, name, finding.code), finding)
            if output["nan"]:
                finding = Finding(
                    "warning",
                    "output_nan",
                    f"{what} has {output['nan']} NaN ({request.name}), which JSON parsers refuse",
                    "mask missing values, and guard divisions by zero",
                )
                found.setdefault((request.signature, name, finding.code), finding)
            declared_scalar = shape_of(signature.outputs[name]) == []
            rows = output["shape"][0] if output["shape"] else None
            if request.batch is not None and rows != request.batch and not declared_scalar:
                finding = Finding(
                    "error",
                    "output_not_by_row",
                    f"{what} has the shape {output['shape']} for {request.batch} rows "
                    f"({request.name}): it cannot be split among the requests of a batch",
                    "give every output the batch as its first dimension",
                )
                found.setdefault((request.signature, name, finding.code), finding)
    yield from found.values()


def _tables(results: dict[int, dict[str, Any]], requests: list[Request]) -> Iterator[Finding]:
    before: dict[str, int] = {}
    for index in sorted(results):
        tables = results[index].get("tables")
        if tables is None:
            continue
        grown = [
            f"{t} ({before[t]} to {n} entries)" for t, n in tables.items() if n > before.get(t, n)
        ]
        before = tables
        if grown and requests[index].kind == "growth":
            yield Finding(
                "error",
                "table_grew",
                f"new text made tables grow: {listed(grown)}, by {requests[index].name}",
                "compute what the table stores on each call; use a StaticHashTable for the rest",
            )


def _row(request: Request, index: int) -> str:
    if index < len(request.rows):
        return f"{request.rows[index]} in {request.name}"
    return f"row {index} of {request.name}"


def _first_lines(error: str, limit: int = 400) -> str:
    text = " ".join(error.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
