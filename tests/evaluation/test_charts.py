"""Charts show the given numbers under the given names."""

import builtins

import numpy as np
import pytest

from tests.rounding import in_double
from tfllm.charts import graph_chart, model_charts
from tfllm.charts.graph_layout import spread, without_overlaps

pytest.importorskip("matplotlib")

OVERLAP = 1e-6
"""of two boxes, with which the search for room ends; in widths of the picture"""


def texts(axes):
    return [text.get_text() for text in axes.texts]


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_label():
    figure = model_charts.confusion_matrix([[8, 2], [0, 1000]], ["ham", "spam"])
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.8, 0.2], [0, 1]])
    assert texts(axes) == ["8", "2", "1,000"]  # nothing is written where nothing is
    assert labels(axes.get_xticklabels()) == labels(axes.get_yticklabels()) == ["ham", "spam"]


def test_a_label_that_never_occurs_is_an_empty_row():
    figure = model_charts.confusion_matrix([[1, 0], [0, 0]], ["a", "b"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[1, 0], [0, 0]])


def test_a_confusion_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 2\].*received \[2, 3\]"):
        model_charts.confusion_matrix(np.zeros((2, 3)), ["a", "b"])


def test_learning_curves_are_sorted_and_have_their_bands():
    curves = {"model": {200: (0.8, 0.7, 0.9), 50: (0.6, 0.5, 0.75)}, "base": {50: 0.4, 200: 0.5}}
    figure = model_charts.learning_curves(
        curves, x_label="examples", y_label="accuracy", log_x=True, baselines=["base"]
    )
    (axes,) = figure.axes
    model, base = axes.lines
    np.testing.assert_array_equal(model.get_xydata(), [[50, 0.6], [200, 0.8]])
    np.testing.assert_array_equal(base.get_xydata(), [[50, 0.4], [200, 0.5]])
    assert base.get_color() == model_charts.BASELINE
    (band,) = axes.collections  # the base has no interval
    corners = {tuple(np.round(point, 6)) for point in band.get_paths()[0].vertices}
    assert {(50, 0.5), (50, 0.75), (200, 0.7), (200, 0.9)} <= corners
    assert labels(axes.get_xticklabels()) == ["50", "200"]


def test_bars_have_lengths_intervals_and_a_grey_baseline():
    metrics = {"BLEU": {"model": (20.0, 18.0, 23.0), "table": 5.0}, "chrF": {"model": 40.0}}
    figure = model_charts.metric_bars(metrics, baselines=["table"])
    bleu, chrf = figure.axes
    assert [bar.get_width() for bar in bleu.patches] == [20.0, 5.0]
    assert [bar.get_width() for bar in chrf.patches] == [40.0]
    assert texts(bleu) == ["20.0", "5.0"]
    colours = [bar.get_facecolor() for bar in bleu.patches]
    from matplotlib.colors import to_rgba

    assert colours == [to_rgba(model_charts.COLOURS[0]), to_rgba(model_charts.BASELINE)]
    (interval,) = bleu.containers[1].lines[2]
    np.testing.assert_array_equal(interval.get_segments()[0][:, 0], [18, 23])


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="baselines must be names"):
        model_charts.metric_bars({"F1": {"model": 1.0}}, baselines=["other"])
    with pytest.raises(ValueError, match="every curve needs values"):
        model_charts.learning_curves({"model": {}}, x_label="", y_label="")


def test_causal_attention_leaves_what_lies_ahead_out():
    weights = np.tril(np.ones((3, 3))) / np.arange(1, 4)[:, None]
    figure = model_charts.attention_map([weights, weights], ["a", "b", "c"], causal=True)
    first, second = figure.axes[:2]
    shown = first.images[0].get_array()
    assert shown.mask.tolist() == np.triu(np.ones((3, 3), bool), 1).tolist()
    assert shown[2, 1] == in_double(1 / 3)
    assert len(texts(second)) == 6 and second.get_title(loc="left") == "layer 2"


def test_cross_attention_has_the_keys_along_the_bottom():
    figure = model_charts.attention_map([np.full((2, 3), 1 / 3)], ["x", "y"], ["a", "b", "c"])
    assert labels(figure.axes[0].get_xticklabels()) == ["a", "b", "c"]
    assert labels(figure.axes[0].get_yticklabels()) == ["x", "y"]
    with pytest.raises(ValueError, match=r"\[2, 2\].*\[\[2, 3\]\]"):
        model_charts.attention_map([np.zeros((2, 3))], ["x", "y"])


def test_a_graph_has_every_name_and_relation():
    nodes = [graph_chart.GraphNode("Ahab", "person", 5), graph_chart.GraphNode("Pequod", "ship")]
    edges = [graph_chart.GraphEdge("Ahab", "Pequod", "captain of")]
    figure = graph_chart.knowledge_graph(nodes, edges)
    (axes,) = figure.axes
    assert {"Ahab", "Pequod", "captain of"} <= set(texts(axes))
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["person", "ship"]
    with pytest.raises(ValueError, match="Stubb"):
        graph_chart.knowledge_graph(nodes, [graph_chart.GraphEdge("Ahab", "Stubb")])
    with pytest.raises(ValueError, match="their names must differ"):
        graph_chart.knowledge_graph(nodes * 2, [])


def test_neighbours_stand_nearer_than_others():
    edges = np.array([[0, 1], [1, 2], [0, 2], [3, 4], [4, 5], [3, 5]])
    places = spread(edges, np.ones(6), np.full((6, 2), 0.01), 0.7)
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    assert distance[:3, :3].max() < distance[:3, 3:].min()
    np.testing.assert_array_equal(
        places, spread(edges, np.ones(6), np.full((6, 2), 0.01), 0.7)
    )  # the same graph, the same picture


@pytest.mark.parametrize("num", [1, 2, 40])
def test_labels_do_not_overlap(num):
    boxes = np.tile([0.15, 0.03], (num, 1))
    places = spread(np.zeros((0, 2), int), np.zeros(0), boxes, 0.7)
    apart = (np.abs(places[:, None] - places) >= boxes - OVERLAP).any(-1)
    assert apart[~np.eye(num, dtype=bool)].all()


def test_boxes_at_one_place_are_parted():
    places = without_overlaps(np.zeros((2, 2)), np.ones((2, 2)))
    assert np.abs(places[0] - places[1]).max() == pytest.approx(1, rel=0, abs=OVERLAP)


def test_a_picture_is_a_png_and_the_same_each_time(tmp_path):
    figures = [model_charts.metric_bars({"F1": {"model": 0.5}}) for _ in range(2)]
    first, second = (
        model_charts.save(f, tmp_path / "new" / f"{i}.png") for i, f in enumerate(figures)
    )
    assert first.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert first.read_bytes() == second.read_bytes()


def test_a_missing_matplotlib_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"tfllm\[plot\]"):
        model_charts.confusion_matrix([[1]], ["a"])
