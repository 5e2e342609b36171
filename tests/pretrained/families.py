"""The table of families in docs/pretrained_models.md, which tests are generated from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "pretrained_models.md"
REFERENCES = Path(__file__).parent / "references"
COLUMNS = (
    *("family", "`model_type`", "Hugging Face in", "Hugging Face out", "GGUF in", "refused"),
)


class Refused(NamedTuple):
    """A key of config.json (dots lead into objects) and a value that is refused."""

    key: str
    value: Any


class Family(NamedTuple):
    """A row of the table."""

    name: str
    model_type: str
    hugging_face_in: bool
    hugging_face_out: bool
    gguf: str
    """`general.architecture` of its GGUF files; "" where they are not read"""
    refused: tuple[Refused, ...]

    @property
    def references(self) -> list[str]:
        """Names of the recorded model folders of this type."""
        return [name for name, kind in _model_types().items() if kind == self.model_type]


def _model_types() -> dict[str, str]:
    paths = sorted(REFERENCES.glob("*/config.json"))
    return {path.parent.name: json.loads(path.read_text())["model_type"] for path in paths}


def _section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(r"<!-- families -->(.*)<!-- /families -->", text, re.DOTALL)
    assert found, f"{PAGE} has no table of families"
    return found[1]


def families() -> list[Family]:
    """The rows of the table."""
    lines = [line for line in _section().splitlines() if line.startswith("|")]
    rows = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in lines]
    head, _, *rows = rows
    assert head == COLUMNS, head
    return [
        Family(
            name,
            _codes(model_type)[0],
            {"yes": True, "no": False}[read],
            {"yes": True, "no": False}[written],
            next(iter(_codes(gguf)), ""),
            _refused(refused),
        )
        for name, model_type, read, written, gguf, refused in rows
    ]


def refused_everywhere() -> tuple[Refused, ...]:
    """What stands below the table."""
    found = re.search(r"Refused in every family:(.*)", _section(), re.DOTALL)
    assert found
    return _refused(found[1])


def _codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _refused(cell: str) -> tuple[Refused, ...]:
    pairs = [code.split("=", 1) for code in _codes(cell)]
    return tuple(Refused(key, json.loads(value)) for key, value in pairs)
