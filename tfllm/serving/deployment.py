"""Files that deploy exported models on the real TensorFlow Serving: Docker Compose and KServe.

The text protos are those that `tensorflow_model_server` reads, checked against its protocol
buffers; the YAML is checked for its form. Neither has been run against a Docker engine or a
Kubernetes cluster by this project's tests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfllm.files import write_file
from tfllm.serving.deployment_templates import DeploymentSettings, deployment_files

_STAMP = re.compile(
    r"# Written by tfllm\. An edited copy is kept\. Checksum of what follows: ([0-9a-f]{16})\n"
)


@dataclass(frozen=True)
class DeploymentFiles:
    """What `write_deployment_files` did."""

    written: tuple[Path, ...]
    """files that were made or brought up to date"""
    unchanged: tuple[Path, ...]
    """files that were already so"""
    kept: tuple[tuple[Path, Path], ...]
    """edited files that were left alone, and the file beside each that holds what is new"""

    def format(self) -> str:
        """One line a file."""
        lines = [f"wrote {path}" for path in self.written]
        lines += [f"{path} is as it was" for path in self.unchanged]
        lines += [f"kept {path}, which was edited; see {new}" for path, new in self.kept]
        return "\n".join(lines)


def write_deployment_files(
    base: str | Path, names: Sequence[str], settings: DeploymentSettings | None = None
) -> DeploymentFiles:
    """Write models.config, batching.config, monitoring.config, docker-compose.yaml, kserve.yaml.

    A file that was edited since it was generated is never overwritten: what is new is written to
    NAME.new beside it. `docker compose up` in `base` then starts the server.

    Args:
        base: the folder that holds the models' folders NAME/VERSION; the files go into it.
        names: the models to serve.
        settings: numbers and ports; default `DeploymentSettings()`.

    Raises:
        FileNotFoundError: `base` is no folder.
        ValueError: no names, or names that do not fit a URL or a Kubernetes object.
    """
    base, settings = Path(base), settings or DeploymentSettings()
    if not base.is_dir():
        raise FileNotFoundError(f"base must be the folder that holds the models; no folder {base}")
    files = deployment_files(base, names, settings)
    written, unchanged, kept = [], [], []
    for name, content in files.items():
        path = base / name
        content = stamped(content)
        old = path.read_text("utf-8", errors="replace") if path.exists() else None
        if old == content:
            unchanged.append(path)
        elif old is None or not _edited(old):
            write_file(path, content)
            written.append(path)
        else:
            new = path.with_name(path.name + ".new")
            write_file(new, content)
            kept.append((path, new))
    return DeploymentFiles(tuple(written), tuple(unchanged), tuple(kept))


def stamped(content: str) -> str:
    """Content with a first line that tells later whether somebody edited it."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return (
        f"# Written by tfllm. An edited copy is kept. Checksum of what follows: {digest}\n{content}"
    )


def _edited(text: str) -> bool:
    match = _STAMP.match(text)
    return match is None or stamped(text[match.end() :]) != text
