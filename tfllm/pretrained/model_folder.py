"""Where the model of a run is."""

from __future__ import annotations

from pathlib import Path


def model_folder(path: str | Path) -> Path:
    """The folder of a model, given that folder or the folder of the run that trained it.

    Raises:
        FileNotFoundError: the run has not finished, so it has no model yet.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        return path
    if not (path / "model").is_dir():
        raise FileNotFoundError(
            f"the run in {path} has no finished model yet; train on with "
            f"`tfllm train --out {path} --resume`"
        )
    return path / "model"
