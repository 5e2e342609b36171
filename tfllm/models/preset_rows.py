"""Presets as rows of a table: what a family's sizes share stands once, and a size is a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def expanded_rows(
    families: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    sizes: Mapping[str, Mapping[str, tuple[Any, ...]]],
) -> dict[str, dict[str, Any]]:
    """Preset's name to all its values.

    Args:
        families: family to what its sizes have in common.
        columns: what the values of a row are of.
        sizes: family to preset's name to its row: a value for each column, then, where it is
            needed, a dictionary of what differs from the family.
    """
    presets = {}
    for family, rows in sizes.items():
        for name, row in rows.items():
            differing = row[len(columns)] if len(row) > len(columns) else {}
            sizes_of_row = dict(zip(columns, row, strict=False))
            presets[name] = {**families[family], **sizes_of_row, **differing}
    return presets
