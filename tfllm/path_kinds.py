"""Recognize the kinds of folders that tfllm writes, and explain what to do with the wrong one.

A run, a model folder, prepared data, an exported model and an adapter are all folders; a command
that needs one of them says which kind it received, and what to do with that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Kind = Literal["run", "model", "data", "exported", "adapter"]

_WHAT = {
    "run": "a run, which `tfllm train` wrote",
    "model": "a model folder",
    "data": "prepared data, which `tfllm prepare` wrote",
    "exported": "an exported model, which TensorFlow Serving reads",
    "adapter": "an adapter, which belongs to a model",
}
_INSTEAD: dict[tuple[Kind, Kind], str] = {
    ("data", "model"): "train a model on it first: tfllm train --data {path} --out runs/NAME",
    ("exported", "model"): "give the run or the model folder that it was exported from; or serve "
    "it (tfllm serve {path}) and query it with tfllm query",
    ("adapter", "model"): "give the model it belongs to, and --adapter {path}",
    ("run", "exported"): "export its model first: tfllm export {path} saved_models/NAME",
    ("model", "exported"): "export it first: tfllm export {path} saved_models/NAME",
    ("data", "exported"): "train a model on it and export that: "
    "tfllm train --data {path} --out runs/NAME",
    ("adapter", "exported"): "export its model with it: "
    "tfllm export MODEL saved_models/NAME --adapter {path}",
    ("run", "data"): "give the data that the run was trained on, or continue the run: "
    "tfllm train --data DATA --out {path}",
    ("model", "data"): "give files of text or what `tfllm prepare` wrote; a model to start from is "
    "given as --model {path}",
    ("exported", "data"): "give files of text or what `tfllm prepare` wrote",
    ("adapter", "data"): "give files of text or what `tfllm prepare` wrote",
    ("model", "run"): "give the folder that `tfllm train` wrote to, which contains run.json",
    ("data", "run"): "train on it first: tfllm train --data {path} --out runs/NAME",
    ("exported", "run"): "give the folder that `tfllm train` wrote to, which contains run.json",
    ("adapter", "run"): "give the folder that `tfllm train` wrote to, which contains run.json",
}


def kind_of_path(path: Path) -> Kind | None:
    """The kind of a folder; None for a file, a missing path, or a folder of another program."""
    if (path / "run.json").is_file():
        return "run"
    if (path / "manifest.json").is_file() and not (path / "config.json").exists():
        return "data"
    if (path / "adapter_config.json").is_file() and not (path / "config.json").exists():
        return "adapter"
    if (path / "config.json").is_file():
        return "model"
    try:
        names = [path, *(child for child in path.iterdir() if child.name.isdigit())]
    except OSError:
        return None
    return "exported" if any((name / "saved_model.pb").is_file() for name in names) else None


def instead_of(path: str | Path, wanted: Kind) -> str | None:
    """The error message for a folder of another kind than needed; None if it may be right."""
    kind = kind_of_path(Path(path))
    if kind is None or (kind, wanted) not in _INSTEAD:
        return None
    return f"{path} is {_WHAT[kind]}; {_INSTEAD[kind, wanted].format(path=path)}"
