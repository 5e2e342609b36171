"""The charts of a report, drawn with matplotlib: a panel for each quantity, a colour for each
run."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfllm.charts.number_format import percentage, quantity, rate, three_figures
from tfllm.charts.run_figures import figures
from tfllm.charts.run_logs import RunLog, XAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33aadd", "#cc3311", "#858585")
"""Colours that colour-blind readers can distinguish (after Paul Tol's "vibrant"), on white and on
black."""
_DASHES = ("-", "--", ":", "-.")
"""Dashes from the eighth run on: the colours repeat, dashed."""
_INK = "#010203"
"""Colour of text and axes; in a page it is replaced by the page's own colour."""
_MOST_POINTS = 1000
"""Maximum number of points of one line: more are not visible, and make the page large."""
_SMOOTHED_SHARE = 0.01
"""The share of a run within which the weights of a smoothed line fall to 1/e on either side."""
_MARGINS = {"left": 0.86, "right": 0.2, "top": 0.33, "bottom": 0.47}
"""Margins of a panel in a page, in inches: all the same, so that the panels' axes are aligned."""


@dataclass(frozen=True)
class Panel:
    """What one panel shows."""

    key: str
    """key in metrics.jsonl"""
    title: str
    shown: Callable[[float], str]
    """converts a value to a tick label"""
    smoothed: bool = False
    """whether to draw the values faint, with a smoothed line over them"""
    from_zero: bool = True
    """whether the axis begins at 0"""


LOSS = Panel("loss", "Loss, nats a token", three_figures, smoothed=True, from_zero=False)
PANELS = (
    LOSS,
    Panel("learning_rate", "Learning rate", rate),
    Panel("gradient_norm", "Gradient norm", quantity, smoothed=True),
    Panel("tokens_per_second", "Throughput, tokens/s", quantity, smoothed=True),
    Panel("flops_utilization", "FLOPs utilisation", percentage, smoothed=True),
    Panel("time_shares", "Share of the time", percentage),
    Panel("memory_bytes", "Memory of the process", three_figures),
    Panel("skipped_steps", "Skipped steps", quantity),
)


def panels_of(runs: Sequence[RunLog], x: XAxis) -> list[Panel]:
    """The panels for which these runs have data."""

    def known(run: RunLog, key: str) -> bool:
        if key == "time_shares":
            return bool(figures(run).time_shares)
        return bool(
            run.series(key, x)[0] or (key == "loss" and run.series("validation_loss", x)[0])
        )

    return [panel for panel in PANELS if any(known(run, panel.key) for run in runs)]


def smoothed(places: Sequence[float], values: Sequence[float]) -> list[float]:
    """The mean of the values around each position, with weights that decay exponentially on both
    sides.

    The weights depend on the distance between points rather than on their number, so that runs
    that logged more or less often, or in larger batches, are smoothed in the same way. Both sides
    are used because a mean of past values lags: it would show a falling loss too high.
    """
    if not places:
        return []
    scale = _SMOOTHED_SHARE * (places[-1] - places[0]) or 1.0
    before = _sums_so_far(places, values, scale)
    behind = _sums_so_far([-p for p in reversed(places)], list(reversed(values)), scale)
    return [
        (a + b - value) / (weight_a + weight_b - 1)  # each includes the value itself
        for (a, weight_a), (b, weight_b), value in zip(
            before, reversed(behind), values, strict=True
        )
    ]


def _sums_so_far(
    places: Sequence[float], values: Sequence[float], scale: float
) -> list[tuple[float, float]]:
    """The weighted sum of the values up to each position, and the sum of their weights."""
    sums, total, weight, last = [], 0.0, 0.0, places[0]
    for place, value in zip(places, values, strict=True):
        kept = math.exp(-max(0.0, place - last) / scale)
        total, weight, last = total * kept + value, weight * kept + 1, place
        sums.append((total, weight))
    return sums


def thinned(
    places: Sequence[float], values: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """At most `_MOST_POINTS` points that look the same: the minimum and maximum of each stretch."""
    if len(places) <= _MOST_POINTS:
        return places, values
    stretch = -(-2 * len(places) // _MOST_POINTS)
    kept: set[int] = {0, len(places) - 1}
    for start in range(0, len(places), stretch):
        indices = range(start, min(start + stretch, len(places)))
        kept |= {min(indices, key=values.__getitem__), max(indices, key=values.__getitem__)}
    return [places[i] for i in sorted(kept)], [values[i] for i in sorted(kept)]


def style_of(number: int) -> tuple[str, str]:
    """The colour and dashes of a run."""
    return COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]


# ------------------------------------------------------------------ drawing


def require_matplotlib() -> None:
    """Raise an ImportError that says what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"a report is drawn with matplotlib, which cannot be imported ({error}); "
            "install the extra: pip install 'tfllm[plot]'"
        ) from error


def panel_svg(panel: Panel, runs: Sequence[RunLog], x: XAxis, size: tuple[float, float]) -> str:
    """Draw one panel as an `<svg>` element with text and axes in the colour of the page's text.

    Args:
        panel: Panel to draw.
        runs: Logs of the runs.
        x: Quantity of the horizontal axis.
        size: Width and height in inches.
    """
    from matplotlib.figure import Figure

    width, height = size
    with _look(), io.StringIO() as file:
        figure = Figure(figsize=size)
        figure.subplots_adjust(
            left=_MARGINS["left"] / width,
            right=1 - _MARGINS["right"] / width,
            top=1 - _MARGINS["top"] / height,
            bottom=_MARGINS["bottom"] / height,
        )
        _draw(figure.add_subplot(), panel, runs, x)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor").strip()


def picture(panels: Sequence[Panel], runs: Sequence[RunLog], x: XAxis, path: Path) -> None:
    """Draw all panels, with the loss at the top, to a PNG file on white."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    wide = [panel for panel in panels if panel is LOSS]
    others = [panel for panel in panels if panel is not LOSS]
    rows = -(-len(others) // 2)
    legend_rows = -(-len(runs) // 3)
    heights = [4.2] * len(wide) + [2.8] * rows
    with _look():
        size = (11, sum(heights) + 0.3 + 0.28 * legend_rows)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        for panel in wide:
            _draw(figure.add_subplot(grid[0, :]), panel, runs, x)
        for number, panel in enumerate(others):
            row, column = divmod(number, 2)
            _draw(figure.add_subplot(grid[len(wide) + row, column]), panel, runs, x)
        styles: list[Any] = [style_of(number) for number in range(len(runs))]
        lines = [Line2D([], [], color=c, linestyle=dashes, linewidth=2.5) for c, dashes in styles]
        legend = figure.legend(
            lines, ["run"] * len(runs), loc="outside upper left", ncols=min(3, len(runs))
        )
        for text, run in zip(legend.get_texts(), runs, strict=True):
            text.set_text(_short(run.name))  # set afterwards, since a label may not begin with "_"
        figure.savefig(path, format="png", dpi=110, facecolor="white")


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


@contextlib.contextmanager
def _look() -> Iterator[None]:
    import matplotlib

    settings: Any = {
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "axes.titlecolor": _INK,
        "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False,
        "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titleweight": "bold",
        "axes.axisbelow": True, "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"], "font.size": 9.5,
        "grid.alpha": 0.15, "grid.color": _INK, "legend.frameon": False,
        "lines.solid_capstyle": "round", "svg.fonttype": "none", "svg.hashsalt": "tfllm",
        "text.color": _INK, "text.parse_math": False, "xtick.color": _INK, "ytick.color": _INK,
    }  # fmt: skip
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Characters of a name that the font lacks are drawn as boxes; the table shows them.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        yield


def _draw(axes: Axes, panel: Panel, runs: Sequence[RunLog], x: XAxis) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title)
    if panel.key == "time_shares":
        _draw_shares(axes, runs)
        return
    unit, unit_name, shown = _x_unit(runs, x)
    y_unit, y_unit_name = _memory_unit(runs) if panel.key == "memory_bytes" else (1.0, "")
    drawn: list[float] = []
    for number, run in enumerate(runs):
        colour, dashes = style_of(number)
        places, values = run.series(panel.key, x)
        places, values = [p / unit for p in places], [v / y_unit for v in values]
        drawn += values
        line: dict[str, Any] = {"color": colour, "linestyle": dashes}
        if len(places) == 1:
            line |= {"marker": ".", "markersize": 8}
        if panel.smoothed:
            axes.plot(*thinned(places, values), color=colour, alpha=0.3, linewidth=0.9)
            values = smoothed(places, values)
        axes.plot(*thinned(places, values), linewidth=1.7, **line)
        if panel is LOSS:
            places, values = run.series("validation_loss", x)
            axes.plot(
                [place / unit for place in places], values, linestyle="none", marker="o",
                markersize=5.5, color=colour, markeredgecolor=_INK, markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
    axes.set_xlabel(unit_name)
    axes.xaxis.set_major_formatter(lambda value, _: shown(value))
    axes.margins(x=0.02)
    positive = [value for value in drawn if value > 0]
    if panel.key == "gradient_norm" and positive and max(positive) > 50 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    elif panel.from_zero:
        axes.set_ylim(0, 1.08 * max(drawn, default=0) or 1)
    if panel.key == "skipped_steps":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: panel.shown(value) + y_unit_name)


def _draw_shares(axes: Axes, runs: Sequence[RunLog]) -> None:
    """Draw bars, grouped by part of the time, with one for each run."""
    shares = [figures(run).time_shares for run in runs]
    parts = list(dict.fromkeys(part for share in shares for part in share))
    thickness = 0.8 / len(runs)
    for number, share in enumerate(shares):
        for place, part in enumerate(parts):
            if part not in share:
                continue
            y = place + (number - (len(runs) - 1) / 2) * thickness
            axes.barh(y, share[part], 0.86 * thickness, color=style_of(number)[0])
            if len(runs) <= 3:
                axes.text(share[part] + 0.01, y, percentage(share[part]), va="center", fontsize=8)
    axes.set_yticks(range(len(parts)), parts)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def _memory_unit(runs: Sequence[RunLog]) -> tuple[float, str]:
    """The unit of the axis, chosen so that its ticks are round numbers."""
    most = max(value for run in runs for value in run.series("memory_bytes", "step")[1])
    return (2.0**30, " GiB") if most >= 2**30 else (2.0**20, " MiB")


def _x_unit(runs: Sequence[RunLog], x: XAxis) -> tuple[float, str, Callable[[float], str]]:
    """The unit of the axis, its name, and the format of its numbers."""
    if x != "seconds":
        return 1.0, {"tokens": "tokens", "step": "steps"}[x], quantity
    most = max((run.last("seconds") or 0.0 for run in runs), default=0.0)
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if most > 3 * size:
            return size, name, quantity
    return 1.0, "seconds", quantity
