"""The picture of a graph of names, such as a knowledge graph. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfllm.charts.figures import COLOURS, figure_of, shortened
from tfllm.charts.graph_layout import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GraphNode:
    """A node of a drawn graph."""

    name: str
    kind: str = ""
    """nodes of the same kind have the same colour"""
    weight: float = 1.0
    """determines its area"""


@dataclass(frozen=True)
class GraphEdge:
    """An edge of a drawn graph."""

    source: str
    target: str
    label: str = ""
    """text along the edge, which is drawn as an arrow if it has one"""
    weight: float = 1.0
    """determines how thick the edge is and how strongly it pulls"""


def knowledge_graph(
    nodes: Sequence[GraphNode],
    edges: Sequence[GraphEdge],
    *,
    title: str = "",
    size: tuple[float, float] = (10.0, 7.0),
    seed: int = 0,
) -> Figure:
    """Draw a graph of names in which connected names are close together.

    Args:
        nodes: Nodes with different names.
        edges: Edges between names of nodes.
        title: Title of the chart. Defaults to none.
        size: Width and height in inches. Defaults to (10, 7).
        seed: Random seed of the layout; the same graph and seed give the same picture. Defaults to
            0.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no node, two have the same name, or an edge ends at none.
    """
    index = {node.name: i for i, node in enumerate(nodes)}
    if not nodes or len(index) < len(nodes):
        raise ValueError("there must be at least one node, and their names must differ")
    ends = {end for edge in edges for end in (edge.source, edge.target)}
    if unknown := sorted(ends - set(index)):
        raise ValueError(f"edges must end at names of nodes; received {unknown[:5]}")
    names = [shortened(node.name, 24) for node in nodes]
    pairs = np.asarray([(index[e.source], index[e.target]) for e in edges], int).reshape(-1, 2)
    pulls = np.asarray([edge.weight for edge in edges], float)
    # A label's box in the layout's unit, in which the picture's width is 1.
    boxes = np.asarray([(0.075 * len(name) + 0.14, 0.26) for name in names]) / size[0]
    places = spread(pairs, pulls, boxes, size[1] / size[0], seed)
    kinds = list(dict.fromkeys(node.kind for node in nodes))
    most = max(node.weight for node in nodes)
    heaviest = pulls.max(initial=0.0)
    with figure_of(*size) as figure:
        axes = figure.add_subplot()
        from matplotlib.patheffects import withStroke

        axes.set_axis_off()
        for (source, target), edge in zip(pairs, edges, strict=True):
            _draw_edge(axes, places[source], places[target], edge, edge.weight / heaviest)
        for i, node in enumerate(nodes):
            colour = COLOURS[kinds.index(node.kind) % len(COLOURS)]
            x, y = places[i]
            area = 40 + 500 * node.weight / most
            axes.scatter(x, y, area, color=colour, alpha=0.35, linewidths=0, zorder=3)
            text = axes.text(x, y, names[i], ha="center", va="center", fontsize=9, zorder=4)
            text.set_path_effects([withStroke(linewidth=2, foreground="white", alpha=0.8)])
        half = boxes / 2 + 0.02
        axes.set_xlim((places - half)[:, 0].min(), (places + half)[:, 0].max())
        axes.set_ylim((places - half)[:, 1].min(), (places + half)[:, 1].max())
        if title:
            axes.set_title(title)
        if len(kinds) > 1:
            _kind_legend(axes, kinds)
    return figure


def _draw_edge(axes: Axes, start: Any, end: Any, edge: GraphEdge, share: float) -> None:
    style: dict[str, Any] = {"color": "0.55" if edge.label else "0.8", "linewidth": 0.6 + 2 * share}
    if edge.label:
        arrow = {"arrowstyle": "-|>", "shrinkA": 9, "shrinkB": 9, **style}
        axes.annotate("", end, start, arrowprops=arrow, zorder=1)
        x, y = (np.asarray(start) + np.asarray(end)) / 2
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
        axes.text(x, y, edge.label, ha="center", va="center", fontsize=7, color="0.35",
                  bbox=box, zorder=2)  # fmt: skip
    else:
        axes.plot([start[0], end[0]], [start[1], end[1]], zorder=1, **style)


def _kind_legend(axes: Axes, kinds: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", linestyle="none", alpha=0.5)
        for i in range(len(kinds))
    ]
    axes.legend(marks, [kind or "other" for kind in kinds], loc="lower left", fontsize=8.5)
