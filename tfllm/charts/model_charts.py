"""Charts of models: confusion matrix, learning curves, metrics, attention.

Each function returns a matplotlib `Figure`, and `save` writes it as a PNG. They need the extra
`plot`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.charts.figures import BASELINE, COLOURS, figure_of, shortened
from tfllm.charts.figures import save as save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERS = 24
"""Number of labels above which the cells of a confusion matrix are too small for numbers."""

Interval = tuple[float, float, float]
"""A value, and the lower and upper bound of its confidence interval."""


# ------------------------------------------------------------------ the charts


def confusion_matrix(counts: Any, labels: Sequence[str], *, title: str = "") -> Figure:
    """Show how often each label was predicted for each true one.

    Args:
        counts: int `[L, L]`, with true labels as rows and predicted ones as columns.
        labels: Names of the L labels.
        title: Title of the chart. Defaults to none.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If counts has another shape.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(labels), len(labels)):
        raise ValueError(
            f"counts must have the shape [{len(labels)}, {len(labels)}], a row and a column for "
            f"each label; received {list(counts.shape)}"
        )
    size = max(3.2, 1.6 + 0.52 * len(labels))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with figure_of(size + 0.9, size + (0.5 if title else 0.2)) as figure:
        axes = figure.add_subplot()
        axes.grid(False)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [shortened(label, 22) for label in labels]
        turned = max(map(len, names)) > 6
        axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        if title:
            axes.set_title(title)
        if len(labels) <= _MOST_NUMBERS:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.55 else "0.15"
                    axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour,
                              fontsize=9 if len(labels) <= 12 else 7)  # fmt: skip
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true label")
    return figure


def learning_curves(
    curves: Mapping[str, Mapping[float, Interval | float]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    baselines: Sequence[str] = (),
) -> Figure:
    """Plot values over steps, or over numbers of examples, with confidence bands.

    Args:
        curves: For each name, the value, or (value, low, high), at each x.
        x_label, y_label, title: Labels of the axes, and title.
        log_x: Whether the horizontal axis is logarithmic, with ticks at the given positions.
            Defaults to False.
        baselines: Names of the curves to draw grey and dashed. Defaults to none.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no curve, one has no points, or a baseline is unknown.
    """
    _check_names(curves, baselines, "curve")
    with figure_of(6.4, 4.0) as figure:
        axes = figure.add_subplot()
        for name, colour, dashes in _styles(curves, baselines):
            places = sorted(curves[name])
            triples = [_triple(curves[name][x]) for x in places]
            values, lows, highs = (list(column) for column in zip(*triples, strict=True))
            axes.plot(places, values, dashes, color=colour, marker="o", markersize=4, label=name)
            if lows != highs:
                axes.fill_between(places, lows, highs, color=colour, alpha=0.15, linewidth=0)
        if log_x:
            from matplotlib.ticker import NullLocator

            axes.set_xscale("log")
            every = sorted({x for curve in curves.values() for x in curve})
            axes.set_xticks(every, [f"{x:,g}" for x in every])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if title:
            axes.set_title(title)
        axes.legend()
    return figure


def metric_bars(
    metrics: Mapping[str, Mapping[str, Interval | float]],
    *,
    title: str = "",
    baselines: Sequence[str] = (),
) -> Figure:
    """Compare several systems, with a panel for each metric and confidence intervals.

    Args:
        metrics: For each metric, the value, or (value, low, high), of each system.
        title: Title above all panels. Defaults to none.
        baselines: Systems to draw grey. Defaults to none.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no metric, one has no systems, or a baseline is unknown.
    """
    _check_names(metrics, (), "metric")
    systems = list(dict.fromkeys(system for of in metrics.values() for system in of))
    _check_names({system: metrics for system in systems}, baselines, "system")
    names = [textwrap.fill(system, 26) for system in systems]
    height = 0.75 + 0.42 * len(systems) + 0.14 * sum(name.count("\n") for name in names)
    longest = max(len(line) for name in names for line in name.split("\n"))
    width = 0.5 + 0.075 * longest + 2.4 * len(metrics)
    colours = {name: colour for name, colour, _ in _styles(dict.fromkeys(systems), baselines)}
    with figure_of(max(width, 4.5), height + (0.35 if title else 0)) as figure:
        panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
        for axes, (metric, of) in zip(panels, metrics.items(), strict=True):
            for system, given in of.items():
                value, low, high = _triple(given)
                place = systems.index(system)
                axes.barh(place, value, 0.66, color=colours[system])
                if low != high:
                    error = [[value - low], [high - value]]
                    axes.errorbar(value, place, xerr=error, color="0.15", capsize=3, linewidth=1.1)
                axes.annotate(_number(value), (max(value, high), place), (5, 0), fontsize=9,
                              textcoords="offset points", va="center")  # fmt: skip
            most = max(max(_triple(given)) for given in of.values())
            axes.set_xlim(min(0, *(min(_triple(given)) for given in of.values())), 1.3 * most or 1)
            axes.set_yticks(range(len(systems)), names)
            axes.set_ylim(len(systems) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.locator_params(axis="x", nbins=4)
            axes.grid(False, axis="y")
            axes.set_title(metric)
        if title:
            figure.suptitle(title, fontweight="bold")
    return figure


def attention_map(
    weights: Sequence[Any],
    tokens: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    causal: bool = False,
    title: str = "",
    x_label: str = "attends to",
    y_label: str = "",
    names: Sequence[str] | None = None,
) -> Figure:
    """Show what each token attends to, with a panel for each layer (or head).

    Args:
        weights: For each panel, float `[T, S]`, whose rows sum to 1.
        tokens: The T tokens that attend.
        keys: The S tokens that they attend to. Defaults to `tokens`.
        causal: Whether to leave later tokens grey. Defaults to False.
        title, x_label, y_label: Title, and labels of the axes.
        names: Names of the panels. Defaults to "layer 1" and so on.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the shapes do not match.
    """
    keys = tokens if keys is None else keys
    panels = [np.asarray(w, np.float64) for w in weights]
    wanted = (len(tokens), len(keys))
    if not panels or any(w.shape != wanted for w in panels):
        shapes = [list(w.shape) for w in panels]
        raise ValueError(
            f"weights must be matrices of shape [{wanted[0]}, {wanted[1]}], a row for each token "
            f"and a column for each key; received the shapes {shapes}"
        )
    names = names or [f"layer {i + 1}" for i in range(len(panels))]
    hidden = np.triu(np.ones(wanted, bool), 1) if causal else np.zeros(wanted, bool)
    cell = 0.62 if max(wanted) <= 10 else 0.3
    longest = 0.085 * max(map(len, tokens))
    width = 1.6 + longest + (0.3 + cell * len(keys)) * len(panels)
    height = 1.0 + 0.085 * max(map(len, keys)) + cell * len(tokens)
    with figure_of(width, height) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, matrix, name in zip(all_axes, panels, names, strict=True):
            axes.grid(False)
            shown = np.ma.array(matrix, mask=hidden)
            image = axes.imshow(shown, cmap=_blues(), vmin=0, vmax=1)
            axes.set_title(name)
            axes.set_xticks(range(len(keys)), keys, rotation=0 if _fits(keys, cell) else 90)
            axes.set_yticks(range(len(tokens)), tokens)
            axes.tick_params(length=0)
            axes.set_xlabel(x_label)
            axes.spines[:].set_visible(False)
            if cell > 0.5:
                for (row, column), value in np.ndenumerate(matrix):
                    if not hidden[row, column]:
                        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                                  color="white" if value > 0.55 else "0.2")  # fmt: skip
        all_axes[0].set_ylabel(y_label)
        figure.colorbar(image, ax=list(all_axes), shrink=0.75, label="attention weight")
        if title:
            figure.suptitle(title, fontweight="bold")
    return figure


# ------------------------------------------------------------------ how they look


def _check_names(values: Mapping[str, Any], baselines: Sequence[str], noun: str) -> None:
    empty = [name for name, of in values.items() if not of]
    if not values or empty:
        raise ValueError(f"every {noun} needs values; received {empty or 'none'}")
    if unknown := sorted(set(baselines) - set(values)):
        raise ValueError(f"baselines must be names of {noun}s ({list(values)}); got {unknown}")


def _styles(names: Mapping[str, Any], baselines: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """The (name, colour, dashes) of each."""
    greys = [BASELINE, "#c4c4c4", "#707070"]
    others = [name for name in names if name not in baselines]
    for name in names:
        if name in baselines:
            yield name, greys[list(baselines).index(name) % len(greys)], "--"
        else:
            yield name, COLOURS[others.index(name) % len(COLOURS)], "-"


def _triple(given: Interval | float) -> Interval:
    if isinstance(given, tuple | list):
        value, low, high = map(float, given)
        return value, low, high
    return float(given), float(given), float(given)


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:.3f}" if size < 1 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def _fits(words: Sequence[str], cell: float) -> bool:
    """Whether words fit next to each other over cells of that many inches."""
    return 0.085 * max(map(len, words)) < cell


def _blues() -> Any:
    import matplotlib

    return matplotlib.colormaps["Blues"].with_extremes(bad="0.94")
