"""The memory and start-up time of a served model, measured in a clean process.

The process loads the model through TensorFlow's C API, as a server does, runs its warm-up requests,
and then a full batch of long texts for each signature.
"""

from __future__ import annotations

from pathlib import Path

from tfllm.serving.batching_options import DEFAULT_BATCHING
from tfllm.serving.checks.probe_requests import full_batches
from tfllm.serving.checks.run import run_requests
from tfllm.serving.checks.warmup_requests import warmup_requests
from tfllm.serving.footprint import Footprint, footprint_of
from tfllm.serving.saved_model.graph import SavedModelGraph


def measure_footprint(
    version: str | Path, *, rows: int = DEFAULT_BATCHING.max_batch_size, timeout: float = 1800.0
) -> Footprint:
    """Load a version as a server does, and run its warm-up requests and a full batch of long texts.

    Args:
        version: the version's folder.
        rows: number of rows of the batch.
        timeout: time limit of the process, in seconds.

    Returns:
        The peak memory, and the time until the version was ready.

    Raises:
        RuntimeError: the version could not be loaded or run; the message says why.
        SavedModelError: the folder has no SavedModel that can be served.
    """
    version = Path(version)
    graph = SavedModelGraph.read(version)
    warmups, _ = warmup_requests(version, graph)
    batches = full_batches(graph, warmups, rows)
    events, ended = run_requests(version, graph, [*warmups, *batches], timeout)
    found = footprint_of(events, len(warmups))
    failed = next((e["error"] for e in events if e.get("error")), "")
    if found is None or ended or failed:
        raise RuntimeError(
            f"{version} could not be measured: {failed or ended or 'TensorFlow has no C library'}"
        )
    return Footprint(found.peak_memory_bytes, found.ready_seconds, rows)
