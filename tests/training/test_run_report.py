"""Reports on runs: reading their folders, in any state, and the resulting pages."""

import html.parser
import itertools
import json
import math
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.rounding import in_double
from tfllm.charts.run_charts import (
    COLOURS,
    PANELS,
    _draw,
    _look,
    panel_svg,
    panels_of,
    smoothed,
    thinned,
)
from tfllm.charts.run_figures import figures
from tfllm.charts.run_logs import read_runs
from tfllm.cli import main
from tfllm.training import report
from tfllm.training.reports.run_comparison import NOTHING, comparison, differences

MODEL = {
    "vocab_size": 61, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "feed_forward_dim": 40, "max_sequence_length": 32,
}  # fmt: skip


def step(number, *, seconds, batch=64, **values):
    """A line about a step as `train` writes it, half of whose time is computation."""
    return {
        "step": number,
        "tokens": number * batch,
        "loss": 4.0 - number / 100,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "tokens_per_second": 1000.0,
        "tokens_per_second_per_replica": 500.0,
        "flops_utilization": 0.5,
        "skipped_steps": 0.0,
        "memory_bytes": 2.0**30,
        "seconds": seconds,
        "input_seconds": 0.01 * seconds,
        "compute_seconds": 0.5 * seconds,
        "checkpoint_seconds": 0.04 * seconds,
        "validation_seconds": 0.2 * seconds,
        **values,
    }


def validation(number, loss, batch=64):
    return {"step": number, "tokens": number * batch, "validation_loss": loss}


@pytest.fixture
def write(tmp_path):
    """Writes a run's folder."""

    def write(name, lines, settings=None, end="\n"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if settings is not None:
            (folder / "run.json").write_text(json.dumps(settings))
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "metrics.jsonl").write_text(text + end)
        return folder

    return write


@pytest.fixture
def run(write):
    lines = [step(i, seconds=float(i)) for i in range(1, 41)]
    lines[20:20] = [validation(20, 3.9)]
    return write("runs/plain", lines, {"model": MODEL, "training": {"precision": "float32"}})


def one(folder):
    (found,) = read_runs([folder])
    return found


# ---- reading


def test_time_goes_on_over_a_resume(write):
    lines = [
        step(1, seconds=2.0),
        step(2, seconds=10.0),
        validation(2, 3.0),
        step(3, seconds=4.0),  # another process
        step(4, seconds=6.0),
        validation(4, 2.5),
    ]
    found = one(write("r", lines))
    assert found.starts == 2
    assert found.series("loss", "seconds")[0] == [2.0, 10.0, 14.0, 16.0]
    assert found.series("validation_loss", "seconds") == ([10.0, 16.0], [3.0, 2.5])
    shares = figures(found).time_shares
    assert shares["compute"] == in_double(0.5) and shares["input"] == in_double(0.01)
    assert sum(shares.values()) == in_double(1)


def test_a_resume_whose_first_line_is_late_is_seen_by_the_other_sums(write):
    late = step(2, seconds=40.0) | {"compute_seconds": 0.0}  # it traced for long
    found = one(write("r", [step(1, seconds=10.0), late]))
    assert found.starts == 2
    assert found.series("loss", "seconds")[0] == [10.0, 50.0]


def test_steps_that_were_done_again_count_once(write):
    lines = [step(i, seconds=float(i), loss=1.0) for i in (1, 2, 3, 4)]
    lines += [validation(4, 9.0), *(step(i, seconds=float(i), loss=2.0) for i in (3, 4))]
    found = one(write("r", lines))
    assert found.series("loss", "step") == ([1, 2, 3, 4], [1.0, 1.0, 2.0, 2.0])
    assert not found.validations


def test_what_was_left_out_of_the_data_is_told_and_is_no_setting(write, tmp_path):
    noted = {"model": MODEL, "data": {"notes": ["3 examples are left out"]}}
    first = write("a", [step(1, seconds=1.0), step(2, seconds=2.0)], noted)
    second = write("b", [step(1, seconds=1.0), step(2, seconds=2.0)], {"model": MODEL, "data": {}})
    runs = read_runs([first, second])
    assert [run.notes for run in runs] == [["its data: 3 examples are left out"], []]
    assert not differences(runs)
    assert "its data: 3 examples are left out" in report(first, tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (['{"step": 3, "tok'], 1),
        (["\0\0\0\0"], 1),
        (["[1, 2]", "7", '{"loss": 1}', "[" * 100_000], 4),
        (["", " "], 0),
    ],
)
def test_lines_that_cannot_be_read_are_left_out_and_told(write, damage, lost):
    found = one(write("r", [step(1, seconds=1.0), *damage], {}, end=""))
    assert [line["step"] for line in found.steps] == [1]
    assert bool(found.notes) == bool(lost)
    assert not lost or str(lost) in found.notes[0]


def test_values_that_are_no_finite_numbers_are_left_out(write):
    odd = '{"step": 2, "tokens": 128, "loss": NaN, "learning_rate": "x", "gradient_norm": true, '
    odd += '"memory_bytes": 1' + 400 * "0" + "}"
    found = one(write("r", [step(1, seconds=1.0), odd]))
    assert found.steps[1] == {"step": 2, "tokens": 128}
    assert len(found.series("loss")[0]) == 1


def test_an_old_log_is_drawn_without_what_it_lacks(write, tmp_path):
    lines = [{"step": i, "tokens": 64 * i, "loss": 4.0, "learning_rate": 1e-3} for i in (1, 2, 3)]
    old = write("old", lines, {"model": MODEL})
    found = one(old)
    assert figures(found).time_shares == {} and found.num_replicas is None
    assert [p.key for p in panels_of([found], "tokens")] == ["loss", "learning_rate"]
    page = report(old, tmp_path / "out").read_text()
    assert "Not in these logs: Gradient norm; Throughput" in page
    with pytest.raises(ValueError, match="none of the logs contains seconds"):
        report(old, tmp_path / "out", x="seconds")


@pytest.mark.parametrize("settings", ["{", "[]", None])
def test_a_run_without_readable_settings_is_drawn(run, tmp_path, settings):
    (run / "run.json").unlink()
    if settings is not None:
        (run / "run.json").write_text(settings)
    assert comparison([one(run)])["steps"] == ["40"]
    assert "<svg" in report(run, tmp_path / "out").read_text()


def test_names_are_the_shortest_ends_that_differ(write):
    folders = [write(name, [step(1, seconds=1.0)]) for name in ("a/x/run", "b/x/run", "b/other")]
    assert [r.name for r in read_runs([*folders, folders[0]])] == ["a/x/run", "b/x/run", "other"]


# ---- comparing


def test_the_comparison_by_hand(run, write):
    settings = {
        "model": {**MODEL, "num_layers": 3},
        "training": {"precision": "bfloat16", "steps": 160},
    }
    lines = [step(i, seconds=float(i), batch=128, memory_bytes=3 * 2.0**30) for i in (1, 40)]
    lines += [validation(40, 3.0, 128), step(41, seconds=1.0, batch=128, skipped_steps=2.0)]
    rows = comparison(read_runs([run, write("other", lines, settings)]))
    # Embedding; in a block queries, keys, values and output, a gated feed-forward, two norms.
    block = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 40 + 2 * 16
    assert 61 * 16 + 2 * block + 16 == 6432 and 61 * 16 + 3 * block + 16 == 9152
    assert rows["parameters"] == ["6.43k", "9.15k"]
    assert rows["state"] == ["not finished", "not finished (25.6 %), resumed 1x"]
    assert rows["precision"] == ["float32", "bfloat16"]
    assert rows["replicas"] == ["2", "2"]
    assert rows["steps"] == ["40", "41"]
    assert rows["tokens"] == ["2.56k", "5.25k"]
    assert rows["best validation loss"] == ["3.9000", "3.0000"]
    assert rows["best validation perplexity"] == ["49.40", "20.09"]
    assert rows["tokens/s"] == ["1k", "1k"] and rows["FLOPs utilisation"] == ["50 %", "50 %"]
    assert rows["time"] == ["40.0 s", "41.0 s"]
    assert rows["of which: compute"] == ["50 %", "50 %"] and rows["of which: other"] == [
        "25 %",
        "25 %",
    ]
    assert rows["peak memory"] == ["1 GiB", "3 GiB"] and rows["skipped steps"] == ["0", "2"]
    assert "workers" not in rows  # no run tells


def test_only_settings_that_differ_are_listed(write):
    def settings(folder, digest, **training):
        data = {"folder": folder, "digest": digest}
        return {
            "model": MODEL,
            "training": training,
            "data": data,
            "result": {"steps": len(folder)},
        }

    lines = [step(1, seconds=1.0)]
    a = write("a", lines, settings("x", "1", learning_rate=1e-3, gated=True, seed=1))
    b = write("b", lines, settings("y", "1", learning_rate=3e-4, gated=False, seed=1, new=None))
    unknown = write("unknown", lines)
    assert differences(read_runs([a, b])) == {
        "training.learning_rate": ["0.001", "0.0003"],
        "training.gated": ["yes", "no"],
        "training.new": [NOTHING, "none"],
    }
    assert differences(read_runs([a, unknown])) == {}
    other = write("other", lines, settings("y", "2", learning_rate=1e-3, gated=True, seed=1))
    assert differences(read_runs([a, other])) == {"data.folder": ["x", "y"]}


# ---- drawing


def test_a_run_whose_metrics_were_called_measures_is_compared_with_one_of_today(write, tmp_path):
    value = {"name": "accuracy", "value": 0.9, "low": 0.8, "high": 1.0, "num_examples": 20}
    lines = [step(1, seconds=1.0), validation(1, 3.0)]
    folders = [
        write(key, lines, {"model": MODEL, "result": {"steps": 1, key: [value]}})
        for key in ("measures", "metrics")
    ]
    runs = read_runs(folders)
    assert [run.finished for run in runs] == [True, True] and not differences(runs)
    assert report(folders, tmp_path / "out").exists()


def test_smoothing_keeps_a_straight_line_and_removes_noise(rng):
    places = list(range(1000))
    line = [5 - 0.002 * x for x in places]
    # What lies beyond the nearer end is missing from the mean: e^-20 of the weights of one side,
    # and on average 210 steps away.
    missing = math.exp(-200 / 10) / 2 * 0.002 * (200 + 10)
    assert smoothed(places, line)[200:-200] == pytest.approx(line[200:-200], rel=0, abs=missing)
    noisy = [y + e for y, e in zip(line, rng.normal(size=1000), strict=True)]
    left = [a - b for a, b in zip(smoothed(places, noisy), line, strict=True)]
    assert sum(e * e for e in left) / 1000 < 0.1
    assert smoothed([], []) == [] and smoothed([3], [4.0]) == [4.0]


def test_a_run_that_logs_less_often_is_smoothed_alike(rng):
    places = list(range(2000))
    values = [
        3 + 4 * 0.999**x + 0.3 * e for x, e in zip(places, rng.normal(size=2000), strict=True)
    ]
    often = smoothed(places, values)
    rarely = smoothed(places[::4], values[::4])
    assert max(abs(a - b) for a, b in zip(often[::4], rarely, strict=True)) < 0.35


def test_thinning_keeps_the_ends_and_the_extremes(rng):
    places, values = list(range(50_000)), list(rng.normal(size=50_000))
    values[31_234] = 100.0
    few_places, few_values = thinned(places, values)
    assert len(few_places) <= 1002 and few_places == sorted(few_places)
    assert (few_places[0], few_places[-1]) == (0, 49_999)
    assert max(few_values) == 100.0 and min(few_values) == min(values)


def test_a_run_has_one_colour_in_all_panels(run, write):
    lines = [step(i, seconds=i / 2) for i in range(1, 30)]
    runs = read_runs([run, write("second", lines), write("third", lines)])
    panels = panels_of(runs, "tokens")
    assert len(panels) == len(PANELS)
    for panel in panels:
        found = set(
            re.findall(r"(?:stroke|fill): (#\w+)", panel_svg(panel, runs, "tokens", (5, 3)))
        )
        assert found - {"#ffffff"} == set(COLOURS[:3]), panel.title


@pytest.mark.parametrize("x", ["tokens", "step", "seconds"])
@pytest.mark.parametrize("most", [3, 40, 4_999, 123_456, 9.9e6, 3.3e9, 1.5e13])
def test_no_two_labels_overlap(write, x, most):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [
        step(i, seconds=most * i / 30, learning_rate=3e-4 * i / 30, memory_bytes=1.7e9)
        | {"step": round(most * i), "tokens": most * i}
        for i in range(1, 31)
    ]
    runs = read_runs([write("r", lines)])
    for panel in panels_of(runs, x):
        with _look():
            figure = Figure(figsize=(5.1, 2.9))
            figure.subplots_adjust(left=0.169, right=0.961, top=0.886, bottom=0.162)
            axes = figure.add_subplot()
            _draw(axes, panel, runs, x)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            for labels, side in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
                boxes = [t.get_window_extent() for t in labels if t.get_text()]
                spans = sorted((b.get_points()[0][side], b.get_points()[1][side]) for b in boxes)
                gaps = [b[0] - a[1] for a, b in itertools.pairwise(spans)]
                assert min(gaps, default=1) > 0, (panel.title, [t.get_text() for t in labels])
                assert all(b.x0 >= 0 and b.y0 >= 0 for b in boxes[1:-1]), panel.title


# ---- the page and the picture


class Page(html.parser.HTMLParser):
    """The texts and the attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_no_other_file_and_no_script(run, tmp_path):
    text = report(run, tmp_path / "out").read_text()
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert text.count("<svg") >= len(PANELS)
    for drawing in re.findall(r"<figure[^>]*>(<svg.*?</svg>)", text, re.DOTALL):
        ET.fromstring(drawing)
        assert "currentColor" in drawing and "#010203" not in drawing
    assert "prefers-color-scheme: dark" in text


def test_names_and_settings_are_shown_as_they_are_and_run_nothing(write, tmp_path):
    name = "<script>alert(1)<&'\"$x$"
    lines = [step(i, seconds=float(i)) for i in (1, 2, 3)]
    hostile = write(f"{name}/run", lines, {"training": {"note": "<b>bold</b>"}})
    under = write("_run/run", lines, {"training": {"note": "x"}})
    text = report([hostile, under], tmp_path / "out").read_text()
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags
    assert f"{name}/run" in page.texts and "<b>bold</b>" in page.texts and "_run/run" in page.texts


def test_names_in_other_scripts_are_no_error(write, tmp_path):
    run = write("试验-тест-نموذج", [step(i, seconds=float(i)) for i in (1, 2)])
    assert "试验-тест-نموذج" in report(run, tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("out", "page"),
    [("new/folder", "new/folder/report.html"), ("a.html", "a.html"), ("b.png", "b.html")],
)
def test_the_page_and_the_picture_stand_side_by_side(run, tmp_path, out, page):
    for _ in range(2):  # the second replaces the first
        assert report([run], tmp_path / out) == tmp_path / page
    data = (tmp_path / page).with_suffix(".png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000 and height > 1000


@pytest.mark.slow
def test_many_runs_are_told_apart(write, tmp_path):
    folders = [write(f"run-{i}", [step(1, seconds=1.0), step(2, seconds=2.0)]) for i in range(9)]
    text = report(folders, tmp_path / "out").read_text()
    assert 'stroke-dasharray="7 3"' in text  # the eighth has the first one's colour


def test_what_train_writes_fills_all_panels(whole_run, tmp_path):
    found = one(whole_run.folder)
    assert [p.key for p in panels_of([found], "seconds")] == [p.key for p in PANELS]
    rows = comparison([found])
    assert rows["state"] == ["finished"] and rows["best validation loss"] == ["1.0000"]
    assert rows["steps"] == ["12"] and rows["replicas"] == ["1"] and not found.notes
    assert rows["parameters"] == [f"{whole_run.num_parameters / 1000:.3g}k"]
    assert report(whole_run.folder, tmp_path / "out").exists()


# ---- what is refused, and the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{none}"], "there is no run in {none}: it has neither metrics.jsonl nor run.json"),
        (["{run}", "{none}"], "give the folder that `tfllm train --out` wrote"),
        (["{empty}"], "none of the runs has logged a step yet: {empty}"),
        (["{run}", "--out", "x.pdf"], "out must be a folder or end with .html or .png"),
    ],
)
def test_the_command_refuses_in_one_line(run, write, tmp_path, capsys, arguments, message):
    places = {"run": run, "none": tmp_path / "none", "empty": write("empty", [], {"model": {}})}
    assert main(["report", *(a.format(**places) for a in arguments)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tfllm report: ") and message.format(**places) in line


def test_a_missing_matplotlib_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'tfllm\[plot\]'"):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_python_is_told_of_a_wrong_axis(run, tmp_path):
    with pytest.raises(ValueError, match="x must be tokens, step or seconds; received 'time'"):
        report(run, tmp_path / "out", x="time")  # type: ignore[arg-type]


def test_the_command_imports_no_tensorflow(run, tmp_path):
    code = (
        "import sys\nfrom tfllm.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print([m for m in ('tensorflow', 'keras') if m in sys.modules])\n"
    )
    out = tmp_path / "out/page.html"
    command = [sys.executable, "-c", code, "report", str(run), "--out", str(out), "--x", "step"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"wrote {out} and {out.with_suffix('.png')}", "[]"]
    assert not done.stderr
