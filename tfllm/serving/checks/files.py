"""Rules about a SavedModel's folder: version names, variables, assets, warm-up requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfllm.serving.checks.report import Finding, listed
from tfllm.serving.saved_model.graph import SavedModelGraph

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_INT64 = range(-(2**63), 2**63)


def is_version_folder(folder: Path) -> bool:
    """Whether the folder itself contains a SavedModel."""
    return any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def version_number(name: str) -> int | None:
    """The version that TensorFlow Serving reads from a folder's name; None if it ignores it."""
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", name, re.ASCII):
        return None
    number = int(name)
    return number if number in _INT64 else None


def check_versions(model_folder: Path) -> tuple[Path | None, list[Finding]]:
    """The version folder that Serving would serve, or None, and findings about the names."""
    findings = []
    names = sorted(entry.name for entry in model_folder.iterdir())
    by_number: dict[int, list[str]] = {}
    ignored = []
    for name in names:
        number = version_number(name)
        if number is not None:
            by_number.setdefault(number, []).append(name)
        elif is_version_folder(model_folder / name):
            ignored.append(name)
    if ignored:
        findings.append(
            Finding(
                "warning",
                "version_ignored",
                f"Serving ignores {listed(ignored)}: a version's name is a 64-bit whole number",
                "rename it to a number, or move it elsewhere",
            )
        )
    for number, same in sorted(by_number.items()):
        if len(same) > 1:
            findings.append(
                Finding(
                    "error",
                    "version_collision",
                    f"{listed(same)} are all version {number}: only one of them is served",
                    "keep one, or give each of the others a number of its own",
                )
            )
    if not by_number:
        findings.append(
            Finding(
                "error",
                "no_version",
                f"{model_folder} holds no version: no folder in it has a whole number as its name",
                "move the SavedModel to NAME/1",
            )
        )
        return None, findings
    # Of names with one number, Serving keeps the last in alphabetical order.
    return model_folder / by_number[max(by_number)][-1], findings


def check_files(folder: Path, graph: SavedModelGraph) -> Iterator[Finding]:
    """Findings about the other files next to saved_model.pb."""
    if version_number(folder.resolve().name) is None:
        yield Finding(
            "warning",
            "version_name",
            f"the folder's name {folder.resolve().name!r} is not a whole number: Serving would not "
            "see it",
            "name it NAME/1",
        )
    assets = [asset.filename for asset in graph.meta_graph.asset_file_def]
    missing = [name for name in assets if not (folder / "assets" / name).is_file()]
    if missing:
        yield Finding(
            "error",
            "asset_missing",
            f"{len(missing)} of {len(assets)} assets are not in assets/: {listed(missing)}",
            "copy the whole folder, or export again",
        )
    yield from _variables(folder, graph)
    if not (folder / WARMUP_FILE).is_file():
        yield Finding(
            "warning",
            "no_warmup",
            f"no warm-up requests ({WARMUP_FILE}): the first requests of each shape are slow",
            "write up to 1,000 PredictionLog records there; `tfllm export` does",
        )


def _variables(folder: Path, graph: SavedModelGraph) -> Iterator[Finding]:
    variables = [p for p in graph.places if p.node.op == "VarHandleOp" and not p.function]
    if not variables:
        return
    lost: list[Any] = []
    if not (folder / "variables" / "variables.index").is_file():
        lost.append("variables.index")
    shards = sorted((folder / "variables").glob("variables.data-*-of-*"))
    counts = {int(shard.name.rpartition("-")[2]) for shard in shards}
    if not shards or len(shards) != max(counts):
        lost.append(f"variables.data ({len(shards)} of {max(counts, default=1)} files)")
    if lost:
        yield Finding(
            "error",
            "variables_missing",
            f"the graph has {len(variables)} variables, but variables/ lacks {listed(lost)}",
            "copy the whole folder, or export again",
        )
