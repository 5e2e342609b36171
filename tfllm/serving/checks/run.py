"""Run a SavedModel in a clean process, as TensorFlow Serving would, and check its answers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfllm.serving.checks.answers import judge
from tfllm.serving.checks.graph import mutable_tables
from tfllm.serving.checks.parts import Widths, check_parts, different_widths
from tfllm.serving.checks.probe_requests import probe_requests, signatures_not_run
from tfllm.serving.checks.report import Finding
from tfllm.serving.checks.request import Request, encode_tensor
from tfllm.serving.checks.warmup_requests import warmup_requests
from tfllm.serving.footprint import Footprint, footprint_of
from tfllm.serving.saved_model.graph import SavedModelGraph


@dataclass(frozen=True)
class CheckedRun:
    """The results of running a version."""

    findings: list[Finding]
    requests: int = 0
    """number of requests that ran"""
    load_seconds: float | None = None
    footprint: Footprint | None = None
    """None if the version did not load"""
    widths: Widths = field(default_factory=dict)


def check_run(folder: Path, graph: SavedModelGraph, timeout: float) -> CheckedRun:
    """Run a version folder's warm-up requests and probes.

    Args:
        folder: the version's folder.
        graph: its graph.
        timeout: time limit for loading and all requests, in seconds.
    """
    warmups, findings = warmup_requests(folder, graph)
    requests = warmups + probe_requests(graph, warmups)
    findings += signatures_not_run(graph, requests)
    if not tensorflow_libraries():
        what = "this TensorFlow has no C library to run the model with, so only its files were read"
        fix = "check on Linux or macOS with TensorFlow's own wheel"
        return CheckedRun([*findings, Finding("warning", "not_run", what, fix)])
    events, ended = run_requests(folder, graph, requests, timeout)
    findings += judge(events, ended, requests, graph, timeout)
    results = {event["id"]: event for event in events if event["event"] == "end"}
    findings += check_parts(results, requests)
    seconds = next((e["seconds"] for e in events if e["event"] == "loaded"), None)
    return CheckedRun(
        findings,
        len(results),
        seconds,
        footprint_of(events, len(warmups)),
        different_widths(results, requests),
    )


def run_requests(
    folder: Path, graph: SavedModelGraph, requests: list[Request], timeout: float
) -> tuple[list[dict[str, Any]], str]:
    """Load a version and run requests in a clean process.

    Returns:
        The events that the process wrote, and how it ended: "" if normally, "timeout", or how it
        died. There are no events if this TensorFlow has no C library.
    """
    libraries = tensorflow_libraries()
    if not libraries:
        return [], ""
    job = {
        "libraries": libraries,
        "op_libraries": text_libraries(),
        "saved_model": str(folder.resolve()),
        "tables": mutable_tables(graph),
        "requests": [_encoded(index, r, graph) for index, r in enumerate(requests)],
    }
    return _run_process(job, timeout)


def tensorflow_libraries() -> list[str]:
    """TensorFlow's C libraries, in the order to load them; none if the wheel does not have them."""
    import tensorflow as tf

    folder = Path(tf.__file__).parent
    found = []
    for name in ("libtensorflow_framework", "libtensorflow_cc"):
        paths = [folder / f"{name}.so.2", folder / f"{name}.2.dylib"]
        found += [str(path) for path in paths if path.is_file()]
    return found if len(found) == 2 else []


def text_libraries() -> list[str]:
    """The libraries of TensorFlow Text's kernels; none if it is not installed."""
    spec = importlib.util.find_spec("tensorflow_text")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return [str(path) for folder in folders for path in sorted(Path(folder).rglob("*.so"))]


def _encoded(index: int, request: Request, graph: SavedModelGraph) -> dict[str, Any]:
    signature = graph.signatures[request.signature]
    return {
        "id": index,
        "feeds": [
            [signature.inputs[name].name, encode_tensor(value)]
            for name, value in request.inputs.items()
        ],
        "fetches": [signature.outputs[name].name for name in request.outputs],
        "only_if_failed": request.only_if_failed,
        "measure_tables": request.kind in ("probe", "growth"),
        "values": request.kind in ("probe", "whole", "part"),
    }


def _run_process(job: dict[str, Any], timeout: float) -> tuple[list[dict[str, Any]], str]:
    """The events that the clean process wrote, and how it ended: "", "timeout", or how it died."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_XLA_FLAGS", "XLA_FLAGS")}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    program = Path(__file__).with_name("session_process.py")
    with tempfile.TemporaryDirectory(prefix="tfllm-check-") as scratch:
        job_file, results = Path(scratch, "job.json"), Path(scratch, "results.jsonl")
        job_file.write_text(json.dumps(job), "utf-8")
        results.touch()
        # -I: neither the user's site packages nor PYTHON* variables reach the process.
        command = [sys.executable, "-I", str(program), str(job_file), str(results)]
        try:
            process = subprocess.run(
                command, env=environment, capture_output=True, timeout=timeout, check=False
            )
            ended = _death(process.returncode, process.stderr.decode(errors="replace"))
        except subprocess.TimeoutExpired:
            ended = "timeout"
        lines = results.read_text("utf-8").splitlines()
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            break  # the last line of a process that died while writing it
    return events, ended


def _death(code: int, stderr: str) -> str:
    if code == 0:
        return ""
    last = [line for line in stderr.splitlines() if line.strip()][-3:]
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{name}{': ' if last else ''}{' | '.join(last)[:600]}"
