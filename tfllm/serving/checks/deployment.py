"""Rules about the deployment files around a model: would a server start with them and stay up?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tfllm.serving.checks.report import Finding
from tfllm.serving.deployment_templates import kubernetes_name
from tfllm.serving.footprint import Footprint

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 2**10, "m": 2**20, "g": 2**30, "": 1}
_COMMENTS = re.compile(r"#.*$", re.MULTILINE)
_LABELS_FLAG = re.compile(r"--allow_version_labels_for_unavailable_models(=true|=1|\s|$)", re.M)


def check_deployment(folder: Path, measured: Footprint | None) -> Iterator[Finding]:
    """Findings about docker-compose.yaml, kserve.yaml and models.config.

    Args:
        folder: the version's folder.
        measured: the memory and time that the model took when it was run; None if it was not.
    """
    model = folder.resolve().parent
    compose = _read(model.parent / "docker-compose.yaml")
    has_labels = "version_labels" in _read(model.parent / "models.config")
    if has_labels and compose and not _LABELS_FLAG.search(compose):
        yield Finding(
            "error",
            "labels_refused",
            "models.config has version_labels, and docker-compose.yaml starts the server without "
            "--allow_version_labels_for_unavailable_models=true: it checks labels before models "
            "are loaded, and does not start",
            "add the flag; `tfllm export` writes it",
        )
    if compose and "--num_load_threads" not in compose:
        yield Finding(
            "info",
            "serial_loads",
            "docker-compose.yaml has no --num_load_threads: models are loaded one after another, "
            "and one that fails delays the others through all its retries",
            "give the flag, and fewer --max_num_load_retries; `tfllm export` writes both",
        )
    if measured is None:
        return
    peak = measured.peak_memory_bytes
    for name, limit in (
        ("docker-compose.yaml", _size(r"mem_limit:\s*(\d+)\s*([kmg]?)b?\b", compose)),
        ("kserve.yaml", _kserve_limit(_read(model.parent / "kserve.yaml"), model.name)),
    ):
        if limit is not None and limit < peak:
            yield Finding(
                "error",
                "memory_limit",
                f"{name} ends the server at {limit / 2**30:.2f} GiB; the model took "
                f"{peak / 2**30:.2f} GiB here",
                "`tfllm export --measure` writes limits from a measurement",
            )


def _kserve_limit(text: str, model: str) -> int | None:
    """The memory limit of a model's InferenceService, in bytes."""
    for document in text.split("\n---"):
        if re.search(rf"^  name: {re.escape(kubernetes_name(model))}\s*$", document, re.M):
            return _size(r"limits:\s*(?:cpu:[^\n]*\s*)?memory:\s*(\d+)(Ki|Mi|Gi|)\b", document)
    return None


def _size(pattern: str, text: str) -> int | None:
    match = re.search(pattern, text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _read(path: Path) -> str:
    """A file without its comments; "" if it does not exist."""
    try:
        return _COMMENTS.sub("", path.read_text("utf-8", errors="replace"))
    except OSError:
        return ""
