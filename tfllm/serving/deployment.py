"""Files that deploy exported models on TensorFlow Serving with Docker Compose or KServe.

The tests parse the text protos with the protocol buffers of `tensorflow_model_server`, and check
the form of the YAML. They do not run a Docker engine or a Kubernetes cluster.
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
    """The files that `write_deployment_files` wrote, and those that it did not change."""

    written: tuple[Path, ...]
    """files that were created or updated"""
    unchanged: tuple[Path, ...]
    """files that were up to date"""
    kept: tuple[tuple[Path, Path], ...]
    """edited files, which were not changed, each with the file next to it that has the new text"""

    def format(self) -> str:
        """A line for each file."""
        lines = [f"wrote {path}" for path in self.written]
        lines += [f"{path} is unchanged" for path in self.unchanged]
        lines += [f"kept {path}, which was edited; see {new}" for path, new in self.kept]
        return "\n".join(lines)


def write_deployment_files(
    base: str | Path, names: Sequence[str], settings: DeploymentSettings | None = None
) -> DeploymentFiles:
    """Write models.config, batching.config, monitoring.config, docker-compose.yaml, kserve.yaml.

    A file that was edited since it was generated is never overwritten: the new text is written to
    NAME.new next to it. Afterwards `docker compose up` in `base` starts the server.

    Args:
        base: the folder of the models' folders NAME/VERSION, which the files are written to.
        names: names of the models to serve.
        settings: numbers and ports. Defaults to `DeploymentSettings()`.

    Returns:
        The files that were written, and those that were not changed.

    Raises:
        FileNotFoundError: `base` is not a folder.
        ValueError: there is no name, or a name does not fit a URL or a Kubernetes object.
    """
    base, settings = Path(base), settings or DeploymentSettings()
    if not base.is_dir():
        raise FileNotFoundError(f"base must be the folder of the models; there is no folder {base}")
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
    """Content with a checksum as its first line, which shows later whether it was edited."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return (
        f"# Written by tfllm. An edited copy is kept. Checksum of what follows: {digest}\n{content}"
    )


def _edited(text: str) -> bool:
    match = _STAMP.match(text)
    return match is None or stamped(text[match.end() :]) != text
