"""The memory that a served model takes and the time until it is ready, measured or estimated.

Measurements (`tfllm.serving.measuring`) are stored in the version's folder, so that the deployment
files of all models can be written from them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfllm.files import read_json

FOOTPRINT_FILE = "tfllm_footprint.json"
"""file name in a version's assets.extra"""
_PROCESS_BYTES = 2**30
"""memory of a server without its model, and for requests"""
_SECONDS = 120.0
"""time until a server is ready, if that was not measured"""


@dataclass(frozen=True)
class Footprint:
    """The memory and time of a server that serves only this version of a model."""

    peak_memory_bytes: int
    """peak memory of the server's process"""
    ready_seconds: float
    """time from the start of the load to the end of the warm-up requests"""
    batch_rows: int | None = None
    """number of long texts in the batch that was run; None if this is an estimate"""

    @property
    def is_measured(self) -> bool:
        """Whether this was measured; else it is an estimate from the size of the weights."""
        return self.batch_rows is not None

    def format(self) -> str:
        """A sentence for a reader."""
        size = f"{self.peak_memory_bytes / 2**30:.2f} GiB"
        if not self.is_measured:
            return f"memory was not measured; estimated at {size}"
        return (
            f"measured: {size} at most, with {self.batch_rows} long texts at once; ready after "
            f"{self.ready_seconds:.1f} s"
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of its file in a version's folder."""
        return {
            "peak_memory_bytes": self.peak_memory_bytes,
            "ready_seconds": round(self.ready_seconds, 2),
            "batch_rows": self.batch_rows,
        }


def footprint_of(events: list[dict[str, Any]], num_warmups: int) -> Footprint | None:
    """The footprint of a process, from the events that it wrote.

    Args:
        events: the events.
        num_warmups: number of its first requests that were warm-up requests.

    Returns:
        The footprint; None if the process did not load the model.
    """
    loaded = next((e for e in events if e["event"] == "loaded"), None)
    if loaded is None:
        return None
    ends = [e for e in events if e["event"] == "end" and not e["error"]]
    seconds = loaded["seconds"] + sum(e["seconds"] for e in ends if e["id"] < num_warmups)
    most = max([loaded["memory"], *(e["memory"] for e in ends)])
    rows = 0  # not known here; `measure_footprint` sets it
    return Footprint(most, seconds, rows)


def write_footprint(version: Path, footprint: Footprint) -> None:
    """Store a footprint in a version's folder."""
    extra = version / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / FOOTPRINT_FILE).write_text(json.dumps(footprint.to_dict()) + "\n", "utf-8")


def footprint(version: Path) -> Footprint:
    """The measured footprint of a version; if there is none, an estimate on the high side."""
    try:
        content = read_json(version / "assets.extra" / FOOTPRINT_FILE)
        return Footprint(
            int(content["peak_memory_bytes"]),
            float(content["ready_seconds"]),
            int(content["batch_rows"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Footprint(_estimated_bytes(version), _SECONDS)


def _estimated_bytes(version: Path) -> int:
    """The memory if every signature held all weights in float32.

    TensorFlow computes what does not depend on a request once for each signature and keeps it, such
    as weights that are stored as integers or in bfloat16 and used in float32.
    """
    size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
    numbers, num_signatures = 0, 1
    try:
        numbers = _num_weights(version)
        num_signatures = _num_signatures(version)
    except Exception:  # of a SavedModel that cannot be read, only the size is known
        numbers = math.ceil(size / 4)
    return _PROCESS_BYTES + size + (num_signatures + 1) * 4 * numbers


def _num_weights(version: Path) -> int:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return sum(math.prod(shapes[n]) for n, kind in kinds.items() if kind != tf.string)


def _num_signatures(version: Path) -> int:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    names = [n for n in saved.meta_graphs[0].signature_def if not n.startswith("__")]
    return max(len(names), 1)
