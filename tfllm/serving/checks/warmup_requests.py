"""The warm-up requests of a version folder, as requests that a check runs."""

from __future__ import annotations

from pathlib import Path

from tfllm.serving.checks.files import WARMUP_FILE
from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.checks.request import STRING, Request, common_rows
from tfllm.serving.protocol.warmup_requests import (
    MAX_RECORDS,
    WarmupError,
    WarmupRequest,
    read_warmup_requests,
)
from tfllm.serving.saved_model.graph import SavedModelGraph


def warmup_requests(folder: Path, graph: SavedModelGraph) -> tuple[list[Request], list[Finding]]:
    """The warm-up requests as requests to run, and findings about their file."""
    path = folder / WARMUP_FILE
    if not path.is_file():
        return [], []
    fix = "write them again, with the inputs and the types of the signature"
    try:
        logs, records = read_warmup_requests(path)
    except WarmupError as error:
        return [], [
            Finding("error", "warmup_unreadable", f"{WARMUP_FILE}: {error}; the load fails", fix)
        ]
    findings = []
    if records > MAX_RECORDS:
        findings.append(
            Finding(
                "error",
                "too_many_warmup_records",
                f"{WARMUP_FILE} has more than {MAX_RECORDS} records, so Serving refuses the model",
                f"keep at most {MAX_RECORDS}: one of each signature and batch size is enough",
            )
        )
    requests = []
    not_run = set()
    for index, log in enumerate(logs, 1):
        if log.kind in ("session_run", "predict_streamed"):
            wrong = f"is a {log.kind} log, which Serving cannot replay"
        elif log.kind == "multi_inference":
            not_run.add(log.kind)
            continue
        else:
            wrong = _misfit(log, graph)
            if not wrong and log.kind != "predict" and not len((log.inputs or {})["inputs"]):
                wrong = f"is a {log.kind} log without examples"
        if wrong:
            what = f"warm-up record {index} {wrong}, so the load fails"
            findings.append(Finding("error", "warmup_misfit", what, fix))
            continue
        assert log.inputs is not None
        names = log.output_filter or tuple(sorted(graph.signatures[log.signature].outputs))
        inputs = dict(log.inputs)
        requests.append(
            Request(
                f"warm-up record {index}",
                "warm-up",
                log.signature,
                inputs,
                names,
                common_rows(inputs),
            )
        )
    if not_run:
        what = f"{listed(sorted(not_run))} warm-up records were not run"
        findings.append(Finding("info", "warmup_not_run", what, "try them on a server"))
    return requests, findings


def _misfit(log: WarmupRequest, graph: SavedModelGraph) -> str:
    """Why a server would refuse a request; "" if it would not."""
    from tensorflow import as_dtype

    if log.signature not in graph.signatures:
        return f"names the signature {log.signature!r}; there are {listed(graph.signatures)}"
    signature = graph.signatures[log.signature]
    given, wanted = set(log.inputs or ()), set(signature.inputs)
    needed = wanted - set(signature.defaults)
    if not needed <= given <= wanted:
        return (
            f"gives {log.signature} the inputs {listed(sorted(given)) or 'none'} "
            f"instead of {listed(sorted(wanted), limit=12)}"
        )
    for key, value in (log.inputs or {}).items():
        dtype = STRING if value.dtype == object else as_dtype(value.dtype).as_datatype_enum
        wanted_type = as_dtype(signature.inputs[key].dtype)
        if dtype != wanted_type.as_datatype_enum:
            return f"gives {log.signature} {key!r} as {value.dtype}, not {wanted_type.name}"
    unknown = set(log.output_filter) - set(signature.outputs)
    if unknown:
        return f"asks for outputs that {log.signature} lacks: {listed(sorted(unknown))}"
    return ""
