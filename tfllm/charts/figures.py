"""How all pictures look, and how one is written. Needs the extra `plot`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33aadd", "#cc3311", "#858585")
"""Told apart by colour-blind readers (after Paul Tol's "vibrant")."""
BASELINE = "#9a9a9a"
"""the colour of what is to be beaten"""


@contextlib.contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of that many inches, to be drawn on within the context.

    Raises:
        ImportError: there is no matplotlib.
    """
    with _look():
        from matplotlib.figure import Figure

        yield Figure(figsize=(width, height), layout="constrained")


@contextlib.contextmanager
def _look() -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f"a chart is drawn with matplotlib, which cannot be imported ({error}); install the "
            "extra: pip install 'tfllm[plot]'"
        ) from error
    settings: Any = {
        "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False,
        "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titleweight": "bold",
        "axes.axisbelow": True, "font.size": 9.5, "grid.alpha": 0.25, "legend.frameon": False,
        "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def save(figure: Figure, path: str | Path, *, dpi: int = 110) -> Path:
    """Write a figure as a PNG, on white; the folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing: dict[str, Any] = {"Software": None}  # the same figure gives the same bytes
    with _look():
        figure.savefig(path, format="png", dpi=dpi, facecolor="white", metadata=nothing)
    return path


def shortened(name: str, most: int) -> str:
    """The name, cut to so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"
